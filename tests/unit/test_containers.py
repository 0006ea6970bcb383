"""Dockerfile, compose.yaml and what they name agree with each other; `inv images` and `inv smoke` build and run."""

from __future__ import annotations

import json
import re
import shlex
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from onesheet.settings import Settings
from tests.processes import run_command

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
PORTS = {"api": "8000", "bento": "8000", "frontend": "8501", "drift": "8002"}
JOBS = {"evaluate", "train"}


def _stages() -> dict[str, list[str]]:
    """The instructions of each stage, each as one line."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: dict[str, list[str]] = {"": []}
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("FROM "):
            stages[line.split()[-1]] = current = [line]
        else:
            stages[""].append(line) if len(stages) == 1 else current.append(line)
    return stages


STAGES = _stages()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def _of(stage: str, instruction: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in STAGES[stage] if line.startswith(f"{instruction} ")]


def _extras(image: str) -> list[str]:
    """Those of the image, and those that compose.yaml adds."""
    added = SERVICES.get(image, {}).get("build", {}).get("args", {}).get("EXTRAS", "")
    return re.findall(r"--extra (\S+)", " ".join([*_of(f"{image}-packages", "RUN"), added]))


def _locked(extras: list[str]) -> set[str]:
    """Names of all packages that an install with these extras brings, on any system."""
    lock = {package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    found: set[tuple[str, str]] = set()
    waiting = [("onesheet", ""), *(("onesheet", extra) for extra in extras)]
    while waiting:
        name, extra = wanted = waiting.pop()
        if wanted in found:
            continue
        found.add(wanted)
        package = lock[name]
        needs = package.get("optional-dependencies", {}).get(extra, []) if extra else package.get("dependencies", [])
        for need in needs:
            waiting += [(need["name"], ""), *((need["name"], part) for part in need.get("extra", []))]
    return {name for name, _ in found}


def test_inv_images_builds_every_image():
    sys.path.insert(0, str(ROOT))
    try:
        from tasks import IMAGES
    finally:
        sys.path.remove(str(ROOT))
    assert set(IMAGES) == {*PORTS, *JOBS} == {name for name, lines in STAGES.items() if "FROM runtime" in lines[0]}


@pytest.mark.parametrize("image", sorted({*PORTS, *JOBS}))
def test_an_image_is_its_packages_and_the_project_and_runs_as_nobody(image):
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert _extras(image)
    assert set(_extras(image)) <= set(known)
    assert f"--from={image}-packages /opt/onesheet /opt/onesheet" in _of(image, "COPY")
    assert _of(image, "COPY")[-1] == "--from=project /opt/project /opt/onesheet"  # the layer that changes most
    assert _of(image, "USER") == ["10001:10001"]
    assert _of(image, "VOLUME") == ["/onesheet"]
    assert json.loads(_of(image, "ENTRYPOINT")[0])
    labels = dict(label.split("=", 1) for line in _of(image, "LABEL") for label in shlex.split(line))
    assert labels["org.opencontainers.image.title"] == f"onesheet-{image}"

    (health,) = _of(image, "HEALTHCHECK")
    if image in JOBS:
        assert health == "NONE"
        return
    assert _of(image, "EXPOSE") == [PORTS[image]]
    variable = json.loads(health.partition("CMD ")[2])[3]
    assert f"{variable}={PORTS[image]}" in " ".join(_of("runtime", "ENV")).split()


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({}, "/_stcore/health"),
        ({"ONESHEET_UI_BASE_PATH": "/films/"}, "/films/_stcore/health"),
        ({"ONESHEET_UI_BASE_PATH": "", "STREAMLIT_SERVER_BASE_URL_PATH": "films"}, "/films/_stcore/health"),
    ],
)
def test_the_health_check_of_the_page_asks_below_its_base_path(environment, path):
    asked = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path == path else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    command = json.loads(_of("frontend", "HEALTHCHECK")[0].partition("CMD ")[2])[3:]
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        told = {"ONESHEET_UI_PORT": str(server.server_port), **environment}
        checked = run_command([sys.executable, "-IS", ROOT / "deploy/docker/healthy.py", *command], env=told)
        thread.join(60)
    assert (checked.returncode, asked) == (0, [path])


def test_only_training_has_torch():
    assert {image for image in {*PORTS, *JOBS} if "torch" in _locked(_extras(image))} == {"train"}


def test_what_is_copied_is_there_and_not_ignored():
    allowed = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [
        part for stage in STAGES for line in _of(stage, "COPY") if "--from" not in line for part in line.split()[:-1]
    ]
    assert copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(path == one or path.startswith(f"{one}/") for one in allowed), path


@pytest.mark.parametrize(
    "command",
    [
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml"),
        ("hadolint", DOCKERFILE),
    ],
    ids=["compose", "Dockerfile"],
)
def test_those_who_know_the_format_find_nothing(command):
    name, *arguments = command
    done = run_command([Path(sys.executable).with_name(name), *arguments])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_hardened_and_seen_on_this_machine_only(name):
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (
        True,
        ["ALL"],
        ["no-new-privileges:true"],
    )
    assert "/tmp" in service["tmpfs"]  # noqa: S108
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    if name not in STAGES:  # of others: a version, never what happens to be the latest
        assert re.search(r":v?\d+\.\d+", service["image"])
        assert service["healthcheck"]["test"]
        return
    build = service["build"]
    assert (build["context"], build["dockerfile"], build["target"]) == (".", "deploy/docker/Dockerfile", name)
    assert service["image"] == f"onesheet-{name}:${{ONESHEET_TAG:-latest}}"
    assert [port.rpartition(":")[2] for port in service["ports"]] == _of(name, "EXPOSE")
    settings = {f"ONESHEET_{field.upper()}" for field in Settings.model_fields}
    assert settings.issuperset(service["environment"])
    if "ONESHEET_LOG_URL" in service["environment"]:
        assert "postgres" in _extras(name)


def test_what_compose_mounts_and_waits_for_is_there():
    mounts = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", [])]
    bound = {source for source, *_ in mounts if source.startswith(".")}
    assert all((ROOT / source).exists() for source in bound - {"./models"})  # which is made when it is wanted
    assert {source for source, *_ in mounts} - bound == set(COMPOSE["volumes"])
    assert {need["source"] for service in SERVICES.values() for need in service.get("secrets", [])} == set(
        COMPOSE["secrets"]
    )
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[other] or _of(other, "HEALTHCHECK") != ["NONE"]


def _target(service: str, source: str) -> str:
    return next(volume.split(":")[1] for volume in SERVICES[service]["volumes"] if volume.startswith(f"{source}:"))


def test_the_configurations_find_each_other_under_compose():
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in prometheus["scrape_configs"]}
    assert jobs == {name: [f"{name}:{PORTS[name]}"] for name in ("api", "drift")}
    assert prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == ["alertmanager:9093"]
    assert (
        f"--config.file={_target('prometheus', './deploy/prometheus')}/prometheus.yml"
        in SERVICES["prometheus"]["command"]
    )

    alertmanager = (ROOT / "deploy/alertmanager/alertmanager.yml").read_text()
    assert f"credentials_file: {SERVICES['alertmanager']['secrets'][0]['target']}\n" in alertmanager

    provisioning = ROOT / "deploy/grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/onesheet.yml").read_text())["providers"]
    assert provider["options"]["path"] == _target("grafana", "./deploy/grafana/dashboards")
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert SERVICES["frontend"]["environment"]["ONESHEET_API_URL"] == f"http://api:{PORTS['api']}"
