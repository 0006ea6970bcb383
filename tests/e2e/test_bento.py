"""A bento holds all that it needs: built, installed into an empty environment, and served from there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("uv") is None and os.environ.get("ONESHEET_REQUIRE_ALL") != "1", reason="uv is not installed"
)
def test_a_bento_answers_from_an_environment_of_its_own(tmp_path, make_poster):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ONESHEET", "VIRTUAL_ENV", "COV"))}
    programs = str(Path(sys.executable).parent)
    environment = {
        **kept,
        "PATH": os.pathsep.join([programs, kept["PATH"]]),
        "BENTOML_HOME": str(tmp_path / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "UV_LINK_MODE": "copy",
        "ONESHEET_LOG_URL": f"sqlite:///{tmp_path}/log.db",
    }

    def run(*command: object) -> None:
        done = subprocess.run(
            list(map(str, command)), env=environment, cwd=PROJECT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    (tmp_path / "bentoml").mkdir()
    run("inv", "bento")
    bentos = tmp_path / "bentoml/bentos/onesheet"
    python = bentos / (bentos / "latest").read_text() / "env/python"
    run("uv", "venv", "--python", sys.executable, tmp_path / "venv")
    interpreter = tmp_path / "venv/bin/python"
    wheels = list((python / "wheels").glob("*.whl"))
    run("uv", "pip", "install", "--python", interpreter, "-r", python / "requirements.txt", *wheels)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [str(interpreter), "-m", "bentoml", "serve", "onesheet:latest", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
    try:
        answer = _first_answer(f"http://127.0.0.1:{port}", make_poster())
    finally:
        process.terminate()
        process.wait(30)
    assert answer["model"]["name"] == "starter", (tmp_path / "log").read_text()
    assert (tmp_path / "log.db").exists()


def _first_answer(url: str, poster: bytes) -> dict[str, dict[str, str]]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            answer = httpx.post(f"{url}/predict", files={"file": poster}, timeout=20)
            if answer.status_code == httpx.codes.OK:
                return dict(answer.json())
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    return {"model": {"name": "none"}}
