"""A release says what CHANGELOG.md says, and is refused where tag, version and changelog do not agree."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from invoke import Exit

from tests.processes import run_command

ROOT = Path(__file__).parents[2]
CHANGELOG = """# Changelog

What a user would notice.

## Unreleased

## 0.2.0 - 2026-12-01

### Added

- Something.

## [0.1.0] – 2026-11-01

- The beginning.

## 0.0.1
"""


@pytest.fixture
def changes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from tasks import changes

    return changes


def test_notes_are_the_section_of_the_version(changes):
    assert changes(CHANGELOG, "0.2.0") == "### Added\n\n- Something."
    assert changes(CHANGELOG, "0.1.0") == "- The beginning."


@pytest.mark.parametrize("number", ["0.2", "0.2.0.1", "0.3.0", "0.0.1", "0x2.0", "Unreleased"])
def test_a_version_of_which_nothing_is_said(changes, number):
    with pytest.raises(Exit, match=f"CHANGELOG.md says nothing of {number}"):
        changes(CHANGELOG, number)


@pytest.fixture
def release_notes(tmp_path):
    """`release_notes("v0.2.0")`: the command, in a project of version 0.2.0."""
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)

    def run(tag: str) -> subprocess.CompletedProcess[str]:
        inv = Path(sys.executable).with_name("inv")
        (tmp_path / "tasks.py").write_text((ROOT / "tasks.py").read_text())
        command = [inv, "release-notes", "--tag", tag]
        return run_command(command, cwd=tmp_path)

    return run


def test_the_command_prints_the_notes(release_notes):
    done = release_notes("v0.2.0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "### Added\n\n- Something.\n", "")


@pytest.mark.parametrize("tag", ["v0.1.0", "0.2.0", "v0.2.0rc1"])
def test_a_tag_of_another_version_is_refused(release_notes, tag):
    done = release_notes(tag)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"the tag is {tag}, but the version in pyproject.toml 0.2.0\n"


def test_the_version_can_be_a_tag():
    number = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert all(part.isdigit() for part in number.split("."))


def test_what_is_installed_is_tried_before_it_is_published():
    done = run_command([sys.executable, ROOT / "tests/smoke_install.py"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("predict and serve agree: ")
