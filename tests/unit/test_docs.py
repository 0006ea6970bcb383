"""What the documentation says of commands, code and pictures is so."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="about files of the repository, which Linux judges")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_IN_LINE = re.compile(r"`(onesheet [^`]+)`")
_PICTURE = re.compile(r"!\[[^\]]*\]\((?:\.\./)?images/([^)]+)\)")
# What ends a command in a line of a shell.
_ENDS = frozenset({"|", "||", "&", "&&", ";", ">", ">>", "(", ")", "2>"})


@pytest.fixture(scope="module")
def generate() -> Any:
    """`docs/generate.py`."""
    specification = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["docs_generate"] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def known(generate) -> dict[tuple[str, ...], set[str] | None]:
    """Every command with its options; of a group, None."""
    return {
        path: None
        if hasattr(command, "commands")
        else {"--help", *(name for option in command.params for name in (*option.opts, *option.secondary_opts))}
        for path, command, _ in generate.commands()
    }


@pytest.mark.parametrize("name", ["cli.md", "http.md", "bundle.md", "configuration.md"])
def test_the_reference_says_what_the_code_says(generate, name):
    assert (DOCS / "reference" / name).read_text(encoding="utf-8") == generate.pages()[name], "run: inv docs"


def test_every_command_and_every_option_is_in_the_reference(known):
    text = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")

    for path, options in known.items():
        heading = f"{'#' * (1 + len(path))} onesheet {' '.join(path)}\n"
        assert not path or heading in text, path
        section = text.partition(heading)[2].partition("\n#")[0]
        for option in options or ():
            assert not option.startswith("--") or option in section or option == "--help", (path, option)


def test_every_route_and_every_field_of_a_bundle_is_in_the_reference():
    from onesheet.bundle import BundleMetadata
    from onesheet.serving.app import create_app
    from onesheet.settings import Settings

    http = (DOCS / "reference" / "http.md").read_text(encoding="utf-8")
    bundle = (DOCS / "reference" / "bundle.md").read_text(encoding="utf-8")

    for path, methods in create_app(Settings(_env_file=None)).openapi()["paths"].items():
        for method in methods:
            assert f"### {method.upper()} {path}\n" in http
    for name in BundleMetadata.model_fields:
        assert f"| `{name}` | " in bundle


def test_the_problem_in_the_reference_is_one_that_there_is():
    from onesheet.errors import NotAnImageError

    text = (DOCS / "reference" / "http.md").read_text(encoding="utf-8")
    shown = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])

    assert shown["type"] == f"/problems/{NotAnImageError.code}"
    assert (shown["title"], shown["status"]) == (NotAnImageError.title, NotAnImageError.status)
    assert f"| `{shown['type']}` | {shown['status']} | {shown['title']} |" in text


def test_the_public_names_are_in_the_reference():
    import onesheet

    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    assert all(f"::: onesheet.predictor.{name}\n" in text for name in onesheet.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_only_commands_and_options_that_there_are(page, known):
    for command in _commands(page.read_text(encoding="utf-8")):
        problem = _problem(command, known)
        assert not problem, f"{' '.join(command)}: {problem}"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("uv run onesheet predict poster.jpg --json | head", None),
        ("ONESHEET_PORT=1 onesheet serve --port=0 &", None),
        ("onesheet data fetch\nonesheet nothing", "no command `nothing`"),
        ("onesheet predict poster.jpg --topk 3", "no option `--topk`"),
        ("onesheet data nothing", "no command `nothing`"),
        ("docker run onesheet-api --topk", None),
    ],
)
def test_what_is_not_there_is_found(line, problem, known):
    found = [_problem(command, known) for command in _commands(f"```bash\n{line}\n```\n")]

    assert (found[-1] if found else None) == problem


def _commands(markdown: str) -> list[list[str]]:
    """Whatever calls onesheet: in blocks for a shell, and in the midst of a sentence."""
    blocks = [text for _, language, text in _FENCE.findall(markdown) if language == "bash"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += _IN_LINE.findall(_FENCE.sub("", markdown))
    return [command for line in lines for command in _of_line(line)]


def _of_line(line: str) -> list[list[str]]:
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    try:
        words = list(reader)
    except ValueError:  # a quotation that goes on in the next line
        words = line.split()
    found: list[list[str]] = []
    inside = False
    for position, word in enumerate(words):
        before = words[position - 1] if position else ""
        if word == "onesheet" and before not in ("pip", "install", "--tag", "-v"):
            found.append([word])
            inside = True
        elif word in _ENDS:
            inside = False
        elif inside:
            found[-1].append(word)
    return found


def _problem(command: list[str], known: dict[tuple[str, ...], set[str] | None]) -> str | None:
    """What of a command there is not."""
    path: tuple[str, ...] = ()
    for word in (word.rstrip(",") for word in command[1:]):
        if word in ("…", "..."):  # and so on
            continue
        if known[path] is None and not word.startswith("-"):
            path = (*path, word)
            if path not in known:
                return f"no command `{word}`"
        elif word.startswith("--") and known[path] is not None and word.partition("=")[0] not in known[path]:
            return f"no option `{word.partition('=')[0]}`"
    return None


def test_every_picture_has_a_command_that_makes_it():
    shown = {name for page in PAGES for name in _PICTURE.findall(page.read_text(encoding="utf-8"))}
    table = (DOCS / "figures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+`) \| (.*`.+`.*) \|$", table, re.MULTILINE)
    made = {name for names, _ in rows for name in re.findall(r"`([^`]+)`", names)}

    assert len(shown) > 10
    assert shown <= made, f"docs/figures.md says of none of these what makes it: {sorted(shown - made)}"
    assert made == {path.name for path in (DOCS / "images").iterdir()}
    for script in re.findall(r"`python (\S+)", table):
        assert (ROOT / script).is_file(), script


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]

    for page in DOCS.rglob("*.md"):
        assert f": {page.relative_to(DOCS).as_posix()}\n" in navigation + "\n", page
