"""The workflows: only actions that cannot change under us, least permissions, and the commands that run here."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from invoke import Collection, MockContext
from invoke.loader import FilesystemLoader

from onesheet.cli import app
from tests.processes import run_command

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCUMENTS: dict[str, dict[str, Any]] = {path.stem: yaml.safe_load(path.read_text()) for path in WORKFLOWS}
TOOLS = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Whoever may write what; nobody else writes anything.
WRITERS = {
    ("codeql", "analyze"): {"security-events"},
    ("data-change", "report"): {"pull-requests"},
    ("docs", "deploy"): {"pages", "id-token"},
    ("images", "publish"): {"packages"},
    ("pre-commit-update", "update"): {"contents", "pull-requests"},
    ("release", "pypi"): {"id-token"},
    ("release", "github"): {"contents", "id-token", "attestations"},
}
SHELL = {"[", "echo", "exit", "fi", "if", "printf", "test", "then"}
OF_THE_RUNNER = {"bash", "docker", "gh", "git", "npm", "sudo", "uv"}
OF_THE_ENVIRONMENT = {"coverage", "dvc", "inv", "onesheet", "pre-commit", "python"}
INSTALLED_BY_A_STEP = {"cml"}

workflows = pytest.mark.parametrize("name", DOCUMENTS)


@pytest.fixture(scope="module")
def tasks() -> Collection:
    module, _ = FilesystemLoader(start=str(ROOT)).load("tasks")
    return Collection.from_module(module)


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, document in DOCUMENTS.items():
        for job, content in document["jobs"].items():
            yield name, job, content


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in DOCUMENTS[name]["jobs"].values():
        yield from job.get("steps", [])


def commands(name: str, program: str) -> Iterator[list[str]]:
    """The words behind a program's name, in every step that runs it."""
    for step in steps(name):
        for line in step.get("run", "").splitlines():
            words = shlex.split(line)
            if program in words:
                yield words[words.index(program) + 1 :]


def calls(script: str) -> Iterator[list[str]]:
    """Every call of a shell script, as words; `uv run` is left out before what it runs."""
    for line in script.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        call: list[str] = []
        redirected = False
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                redirected = ">" in word
                if call and not redirected:
                    yield _without_uv(call)
                    call = []
            elif redirected:
                redirected = False
            else:
                call.append(word)


def _without_uv(call: list[str]) -> list[str]:
    if call[:2] != ["uv", "run"]:
        return call
    words = iter(call[2:])
    for word in words:
        if word in {"--extra", "--group", "--with"}:
            next(words)
        elif not word.startswith("--"):
            return [word, *words]
    raise AssertionError(call)


# ---------------------------------------------------------------------------------------- what others may do


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_named_by_hash_and_their_version_is_told(workflow):
    used = re.findall(r"uses: (.*)", workflow.read_text())
    assert used
    for name in used:
        if not name.startswith("./.github/workflows/"):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*", name), name


def test_an_action_has_the_same_version_everywhere():
    used = {tuple(name.split("@")) for path in WORKFLOWS for name in re.findall(r"uses: (\S+@.*)", path.read_text())}
    assert len(used) == len({action for action, _ in used})


def test_who_may_write_is_in_the_list():
    assert all(document["permissions"] == {"contents": "read"} for document in DOCUMENTS.values())
    granted = {
        (name, job): {scope for scope, access in content["permissions"].items() if access == "write"}
        for name, job, content in jobs()
        if "permissions" in content
    }
    assert granted == WRITERS


def test_every_job_ends_in_time_and_keeps_no_credentials():
    for name, job, content in jobs():
        if "uses" in content:  # the jobs of that workflow end in time themselves
            continue
        assert 0 < content["timeout-minutes"] <= 330, (name, job)
        for step in content["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, (name, job)


@pytest.mark.parametrize(
    "command",
    [
        ("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS),
        ("check-jsonschema", "--builtin-schema", "vendor.dependabot", ROOT / ".github/dependabot.yml"),
        ("zizmor", "--offline", "--no-progress", "--quiet", ROOT / ".github"),
        ("pre-commit", "validate-config", ROOT / ".pre-commit-config.yaml"),
    ],
    ids=["workflows", "dependabot", "zizmor", "pre-commit"],
)
def test_those_who_know_the_format_find_nothing(command):
    name, *arguments = command
    done = run_command([TOOLS / name, *arguments], cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


# -------------------------------------------------------------------------------- the commands that run here


def test_the_reader_of_scripts_sees_every_call():
    script = """
if [ -n "$X" ]; then
  printf '%s' "$X" > "$FILE"; uv run --extra dvc --no-sync dvc pull
fi
onesheet report $(test -f x && echo --former x) --out y || exit 1
"""
    programs = [call[0] for call in calls(script)]
    assert programs == ["if", "then", "printf", "dvc", "fi", "onesheet", "test", "echo", "--out", "exit"]


@workflows
def test_every_step_runs_what_is_known(name, tasks):
    for step in steps(name):
        for program, *words in calls(step.get("run", "")):
            if program.startswith("--"):  # more words for a call that another one stands in
                continue
            assert program in SHELL | OF_THE_RUNNER | OF_THE_ENVIRONMENT | INSTALLED_BY_A_STEP, step["run"]
            if program in {"bash", "python"}:
                assert (ROOT / words[0]).is_file(), words
            if program == "inv":
                task, *options = words
                known = {
                    f"--{name.replace('_', '-')}" for option in tasks[task].get_arguments() for name in option.names
                }
                assert {word for word in options if word.startswith("--")} <= known, words


@workflows
def test_options_of_onesheet_are_known(name):
    for words in commands(name, "onesheet"):
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            assert words[0] in command.commands, words
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= options, words


@workflows
def test_what_is_installed_is_known(name):
    known = {"--extra": PROJECT["project"]["optional-dependencies"], "--group": PROJECT["dependency-groups"]}
    for words in commands(name, "sync"):
        assert "--locked" in words
        for option, names in known.items():
            assert {words[place + 1] for place, word in enumerate(words) if word == option} <= set(names)


def test_ci_is_what_a_person_runs(tasks):
    assert [task.name for task in tasks["check"].pre] == ["lint", "types", "test"]
    assert (ROOT / ".ci/run").read_text().endswith("inv check\n")
    assert list(commands("ci", "bash")) == [[".ci/run"]]
    assert list(commands("ci", "inv")) == [["lint"], ["types"], ["portable"]]
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for said in re.findall(r"\binv ([a-z][a-z-]*)", contributing + (ROOT / "docs/delivery.md").read_text()):
        assert said in tasks.task_names, said


def test_python_versions_are_those_of_the_project(tasks):
    supported = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    matrices = [job["strategy"]["matrix"] for job in DOCUMENTS["ci"]["jobs"].values() if "strategy" in job]
    assert [matrix["python"] for matrix in matrices] == [supported, supported]
    development = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    container = DOCUMENTS["ci"]["jobs"]["check"]["container"]
    assert development["image"] == container.replace("${{ matrix.python }}", supported[0])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["docker build ", " --tag onesheet-api:latest ."]),
        ({"cache": "read"}, ["docker buildx build ", " --cache-from type=gha,scope=onesheet-api --load "]),
        (
            {"push": "ghcr.io/films", "tag": "0.2.0"},
            [
                "docker buildx build ",
                " --push --provenance mode=max --sbom true ",
                " --tag ghcr.io/films/onesheet-api:0.2.0 .",
            ],
        ),
    ],
    ids=["here", "with GitHub's cache", "to a registry"],
)
def test_an_image_is_built_for_whoever_wants_it(tasks, options, expected):
    context = MockContext(run=True, repeat=True)
    tasks["images"](context, only=["api"], **options)
    built = context.run.call_args_list[-1].args[0]
    assert built.startswith(expected[0])
    assert all(part in built for part in expected)
    assert "--cache-to" not in built


def test_every_image_is_built_tried_and_published(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from tasks import IMAGES

    for job in DOCUMENTS["images"]["jobs"].values():
        assert job["strategy"]["matrix"]["image"] == list(IMAGES)
        tried = [step["run"] for step in job["steps"] if " inv " in step.get("run", "")]
        assert [re.search(r"inv (\w+)", run)[1] for run in tried[:2]] == ["images", "smoke"]


def test_the_development_container_has_what_ci_has():
    development = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    made = list(calls(development["postCreateCommand"]))
    assert ["bash", ".ci/packages"] in made
    assert "bash .ci/packages\n" in (ROOT / ".ci/run").read_text()
    assert ["uv", "sync", "--frozen", "--all-extras", "--group", "dev"] in made


def test_hooks_run_what_is_installed():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (local,) = [one for one in repositories if one["repo"] == "local"]
    for hook in local["hooks"]:
        ((program, *_),) = calls(hook["entry"])
        assert program == "uv" or (TOOLS / program).exists(), hook["entry"]
