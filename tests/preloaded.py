"""Run commands in forks of a process that has imported torch already, which takes seconds of processor time each time.

`python tests/preloaded.py FOLDER` listens on FOLDER/socket and writes FOLDER/onesheet and FOLDER/dvc: put the folder in
front of the PATH, and these commands run as they do elsewhere, with their own arguments, working folder, environment,
standard streams, session and exit code. A signal to the command is passed on, and the end of one ends the other.
"""

from __future__ import annotations

import atexit
import importlib
import json
import multiprocessing
import os
import select
import signal
import socket
import stat
import sys
from multiprocessing.connection import wait
from pathlib import Path

COMMANDS = {"onesheet": ("onesheet.cli", "main"), "dvc": ("dvc.cli", "main")}
MODULES = (
    *("torch", "timm", "lightning.pytorch", "torchmetrics", "hydra", "mlflow", "optuna", "onnx"),
    *("sklearn.metrics", "scipy.stats", "matplotlib.figure", "pyarrow.parquet", "fsspec", "dvc.cli", "dvc.repo"),
    *("onesheet.cli", "onesheet.training.run", "onesheet.export.export", "onesheet.evaluation.evaluate"),
)
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MAX_REQUEST = 2**20

# Without site-packages it starts in a hundredth of a second.
_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
request = {{"name": {name!r}, "arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(connection, [json.dumps(request).encode() + b"\\n"], [0, 1, 2])
for number in {signals}:
    signal.signal(number, lambda number, frame: connection.send(bytes([number])))
answer = connection.recv(8)
code = int(answer) if answer else -signal.SIGKILL
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def serve(folder: Path) -> None:
    """Fork for every command, until standard input is closed: also when the tests are killed."""
    for module in MODULES:
        importlib.import_module(module)
    address = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(16)
        for name in COMMANDS:
            _write_client(folder / name, name, address)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the processes that watch over a command are not waited for
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _run(connection)
            connection.close()
    os._exit(0)


def _write_client(path: Path, name: str, address: Path) -> None:
    signals = tuple(map(int, _PASSED_ON))
    written = path.with_suffix(".new")
    written.write_text(_CLIENT.format(python=sys.executable, address=str(address), name=name, signals=signals))
    written.chmod(stat.S_IRWXU)
    written.rename(path)


def _run(connection: socket.socket) -> None:
    """Run the command in a child, and tell its client how it ended."""
    content, streams, _, _ = socket.recv_fds(connection, _MAX_REQUEST, 3)
    while not content.endswith(b"\n"):
        content += connection.recv(_MAX_REQUEST)
    child = multiprocessing.get_context("fork").Process(target=_become, args=(json.loads(content), streams, connection))
    child.start()
    for stream in streams:
        os.close(stream)
    while child.sentinel not in wait([connection, child.sentinel]):
        number = connection.recv(1)
        os.kill(child.pid, number[0] if number else signal.SIGKILL)
        if not number:  # the client has been killed
            os._exit(0)
    child.join()
    connection.send(str(child.exitcode).encode())
    os._exit(0)


def _become(request: dict[str, object], streams: list[int], connection: socket.socket) -> None:
    """The command, as if it had just been started."""
    connection.close()
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(str(request["folder"]))
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [str(request["name"]), *request["arguments"]]
    module, function = COMMANDS[str(request["name"])]
    try:
        sys.exit(getattr(importlib.import_module(module), function)())
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends its children without them


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
