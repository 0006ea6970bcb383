"""The workflows: only actions that cannot change under us, least permissions, and commands that there are."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from onesheet.cli import app

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        yield from job["steps"]


def commands(workflow: Path, program: str) -> Iterator[list[str]]:
    """The words behind a program's name, in every step that runs it."""
    for step in steps(workflow):
        for line in step.get("run", "").splitlines():
            words = shlex.split(line)
            if program in words:
                yield words[words.index(program) + 1 :]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_named_by_hash_and_permissions_are_few(workflow):
    named = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert named
    assert [name for name in named if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name)] == []
    document = yaml.safe_load(workflow.read_text())
    written = {scope for scope, access in document["permissions"].items() if access == "write"}
    assert written <= {"pull-requests"}
    assert all(job["timeout-minutes"] <= 330 for job in document["jobs"].values())


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_commands_and_their_options_are_known(workflow):
    for words in commands(workflow, "onesheet"):
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            assert words[0] in command.commands, words
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= options, words


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_extras_that_are_installed_are_known(workflow):
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in commands(workflow, "sync"):
        named = [words[index + 1] for index, word in enumerate(words) if word == "--extra"]
        assert named
        assert set(named) <= set(known)
