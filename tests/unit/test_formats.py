"""Every file that a machine reads can be read, by those who know its format where there is somebody."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import run_command

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
# Workflows, compose.yaml, and the rules of Prometheus have tests of their own.
SCHEMAS = {"deploy/gcp/cloudbuild.yaml": "vendor.cloudbuild"}


class Loader(yaml.SafeLoader):
    """Reads tags that only MkDocs knows, and does not read a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key stands there twice"
        return super().construct_mapping(node, deep)


Loader.add_constructor("!ENV", lambda loader, node: loader.construct_sequence(node))


def _files() -> list[str]:
    """What git knows, or will."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = run_command(command, cwd=ROOT, check=True).stdout.splitlines()
    return sorted(name for name in listed if (ROOT / name).is_file())


FILES = _files()


def _named(*suffixes: str) -> list[str]:
    return [name for name in FILES if name.endswith(suffixes)]


@pytest.mark.parametrize("name", _named(".yml", ".yaml", ".json", ".toml", ".dvc", "dvc.lock", "uv.lock"))
def test_it_can_be_read(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".json"):
        assert json.loads(text)
    elif name.endswith((".toml", "uv.lock")):
        assert tomllib.loads(text)
    else:
        assert list(yaml.load_all(text, Loader))


@pytest.mark.parametrize("name", SCHEMAS)
def test_those_who_know_the_format_find_nothing(name):
    command = [TOOLS / "check-jsonschema", "--builtin-schema", SCHEMAS[name], ROOT / name]
    done = run_command(command)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [*_named(".sh"), ".ci/packages", ".ci/run"])
def test_a_script_can_be_read(name):
    done = run_command(["bash", "-n", ROOT / name])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("repository", ["", "https://example.org/onesheet"])
def test_the_site_is_built_and_no_link_leads_nowhere(repository, tmp_path):
    done = run_command(
        [TOOLS / "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "REPOSITORY_URL": repository, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "../CONTRIBUTING.md" not in page
    assert (f"{repository}/blob/main/CONTRIBUTING.md" in page) == bool(repository)
