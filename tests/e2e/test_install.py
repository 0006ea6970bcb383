"""The promise of the README: nothing but uv, one command, a light environment, an answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.processes import MAX_WAIT, run_command, started_process

PROJECT = Path(__file__).parents[2]
# Bytes, without and with the web page.
LARGEST, LARGEST_WITH_PAGE = 350e6, 650e6
HEAVY = ("torch", "sklearn", "lightning", "matplotlib", "mlflow", "bentoml")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables that make uv build a base environment of its own, away from the developer's."""
    if shutil.which("uv") is None:
        if os.environ.get("ONESHEET_REQUIRE_ALL") == "1":
            pytest.fail("uv is not installed")
        pytest.skip("uv is not installed")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ONESHEET", "VIRTUAL_ENV", "COV"))}
    return {**kept, "UV_PROJECT_ENVIRONMENT": str(tmp_path_factory.mktemp("base") / "venv"), "UV_LINK_MODE": "copy"}


@pytest.fixture(scope="module")
def poster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("posters") / "poster.jpg"
    Image.linear_gradient("L").resize((200, 300)).convert("RGB").save(path)
    return path


def _uv_run(environment: dict[str, str], *command: object) -> subprocess.CompletedProcess[str]:
    return run_command(
        ["uv", "run", "--frozen", "--project", str(PROJECT), *map(str, command)],
        env=environment,
        timeout=900,
    )


def _size_and_packages(environment: dict[str, str]) -> tuple[int, set[str]]:
    venv = Path(environment["UV_PROJECT_ENVIRONMENT"])
    size = sum(path.lstat().st_size for path in venv.rglob("*") if not path.is_symlink())
    return size, {path.name for path in venv.glob("lib/python3*/site-packages/*")}


@pytest.mark.slow
def test_one_command_answers_from_a_light_environment(environment, poster):
    done = _uv_run(environment, "--no-default-groups", "onesheet", "predict", poster, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["model"]["name"] == "starter"
    assert len(answer["topk"]) == 5

    size, packages = _size_and_packages(environment)
    assert size < LARGEST
    assert packages.isdisjoint({*HEAVY, "pandas", "pyarrow", "streamlit"})
    for command in ("up", "ui"):
        asked = _uv_run(environment, "--no-default-groups", "onesheet", command)
        assert (asked.returncode, asked.stdout) == (1, "")
        assert "uv sync --extra ui" in asked.stderr


@pytest.mark.slow
def test_one_command_starts_api_and_page(environment, free_port, tmp_path):
    ports = ("--api-port", str(free_port()), "--ui-port", str(free_port()))
    command = ["uv", "run", "--frozen", "--project", str(PROJECT), "onesheet", "up", *ports]
    environment = {**environment, "UV_PROJECT_ENVIRONMENT": str(tmp_path / "venv")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started_process(command, cwd=tmp_path, env=environment, **pipes) as process:
        assert process.stdout is not None
        addresses = [re.search(r"http://\S+", process.stdout.readline())[0] for _ in range(2)]
        answers = [httpx.get(url, follow_redirects=True).status_code for url in (addresses[0], f"{addresses[1]}/docs")]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=MAX_WAIT)
    assert answers == [200, 200]

    size, packages = _size_and_packages(environment)
    assert size < LARGEST_WITH_PAGE
    assert packages.isdisjoint(HEAVY)


@pytest.mark.slow
@pytest.mark.parametrize("command", [("train",), ("data", "prepare"), ("evaluate", "--labels", "x", "--images", "x")])
def test_without_the_extra_a_command_says_how_to_get_it(environment, command):
    done = _uv_run(environment, "--no-default-groups", "onesheet", *command)
    assert done.returncode == 1
    assert "uv sync --extra" in done.stderr
    assert "Traceback" not in done.stderr
