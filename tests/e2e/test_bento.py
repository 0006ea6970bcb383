"""A bento holds all that it needs: built, installed into an empty environment, and served from there."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.processes import MAX_WAIT, eventually, run_command

PROJECT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("uv") is None and os.environ.get("ONESHEET_REQUIRE_ALL") != "1", reason="uv is not installed"
)
def test_a_bento_answers_from_an_environment_of_its_own(tmp_path, make_poster, start_process):
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
        run_command(command, env=environment, cwd=PROJECT, check=True)

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
        process = start_process(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)

    def answer() -> httpx.Response | None:
        assert process.poll() is None, (tmp_path / "log").read_text()
        with suppress(httpx.TransportError):
            found = httpx.post(f"http://127.0.0.1:{port}/predict", files={"file": make_poster()})
            return None if found.status_code == httpx.codes.SERVICE_UNAVAILABLE else found  # the model is being loaded
        return None

    assert eventually(answer).json()["model"]["name"] == "starter", (tmp_path / "log").read_text()
    process.terminate()
    process.wait(MAX_WAIT)
    assert (tmp_path / "log.db").exists()
