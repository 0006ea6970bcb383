"""The documentation as its reader meets it: its commands run as they stand, and the site needs nothing but itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from google.cloud import storage

from tests.processes import run_command

pytestmark = pytest.mark.usefixtures("uncounted_processes")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

# How many blocks of a page cannot run here; each of those says why. A lesson needs nothing but what it makes itself.
LESSONS = {
    "index.md": 1,
    "tutorials/first-prediction.md": 1,
    "tutorials/train-your-own.md": 1,
    "tutorials/put-it-online.md": 3,
    "tutorials/watch-it.md": 2,
}
# A guide is for somebody who has posters already, and a list and a bucket of them.
GUIDES = {
    "reference/bundle.md": 0,
    "reference/python.md": 0,
    "report.md": 0,
    "scoring.md": 2,
    "shards.md": 2,
    "similar.md": 1,
}
# Where the lessons' services listen, and the setting that says so.
PORTS = {"8000": "ONESHEET_PORT", "8501": "ONESHEET_UI_PORT", "8002": "ONESHEET_DRIFT_PORT"}

_BLOCK = re.compile(
    r"(?:^<!-- (?P<marker>not run|stays up): (?P<said>[^\n]+) -->\n)?"
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```\n"
    r"(?=\n+(?:```(?P<next>text|json)\n(?P<expected>.*?)^```$)?)?",
    re.MULTILINE | re.DOTALL,
)

# What `uv` would install for a command is in the environment of the tests.
_UV_RUN = re.compile(r"\buv run (?:--(?:extra|group) \S+ |--all-extras )*")

# The terminals of a page: what stays up does so until something else takes its place, or the page ends.
_PRELUDE = r"""
set -emo pipefail
declare -A owners
end() {
    [ -z "$1" ] || ! kill -- "-$1" 2> /dev/null || wait "$1" || true
}
trap 'for owner in "${owners[@]}"; do end "$owner"; done' EXIT
await() {
    until curl --silent --fail --output /dev/null "$2"; do
        kill -0 "$1"
        sleep 0.1
    done
}
"""


@dataclass(frozen=True)
class Block:
    """A block of a page that is to be run, or says why not.

    Attributes:
        language: `bash` or `python`.
        text: What it holds.
        title: File that it is to be saved as.
        not_run: Why not.
        stays_up: Addresses that answer when it is up, of a command that does not end by itself.
        expected: Kind and content of the block that follows directly.
    """

    language: str
    text: str
    title: str | None = None
    not_run: str | None = None
    stays_up: tuple[str, ...] = ()
    expected: tuple[str, str] | None = None


def blocks(page: str) -> list[Block]:
    return [
        Block(
            found["language"],
            found["text"],
            found["title"],
            found["said"] if found["marker"] == "not run" else None,
            tuple(found["said"].split()) if found["marker"] == "stays up" else (),
            (found["next"], found["expected"]) if found["next"] else None,
        )
        for found in _BLOCK.finditer((DOCS / page).read_text(encoding="utf-8"))
        if found["language"] in ("bash", "python")
    ]


@pytest.mark.parametrize(("page", "left_out"), [*LESSONS.items(), *GUIDES.items()])
def test_what_a_page_leaves_out_it_says(page, left_out):
    text = (DOCS / page).read_text(encoding="utf-8")
    found = blocks(page)

    assert len(found) == len(re.findall(r"^```(?:bash|python)\b", text, re.MULTILINE))
    assert sum(block.not_run is not None for block in found) == left_out
    assert text.count("<!-- not run: ") == left_out
    assert text.count("<!-- stays up: ") == sum(bool(block.stays_up) for block in found)


@pytest.mark.slow
@pytest.mark.parametrize("page", LESSONS)
def test_a_lesson_works_from_start_to_end(page, home, preloaded_commands):
    _run(page, home, preloaded_commands)


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES)
def test_the_commands_of_a_guide_work(page, home, made_up_posters, emulator, preloaded_commands):
    shutil.copytree(made_up_posters, home / "data" / "raw")
    shutil.copytree(ROOT / "reports", home / "reports")
    pictures = sorted((home / "data" / "raw" / "Images").iterdir())
    shutil.copy(pictures[0], home / "poster.jpg")
    (home / "films.csv").write_text("".join(f"{path}\n" for path in ["path", *pictures]))
    bucket = storage.Client(project="films").create_bucket("my-bucket")
    for path in pictures[:20]:
        bucket.blob(f"posters/{path.name}").upload_from_filename(path)

    _run(page, home, preloaded_commands)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def _run(page: str, home: Path, search_path: str) -> None:
    """Every block of the page that can run, in order, in one shell, and each with the output that is shown."""
    notes = home.with_name("notes")
    notes.mkdir()
    ports = _free_ports()
    found = [block for block in blocks(page) if block.not_run is None]
    script = "\n".join([_PRELUDE, *(_step(block, notes / str(number)) for number, block in enumerate(found))])
    for documented, port in ports.items():
        script = script.replace(f"127.0.0.1:{documented}", f"127.0.0.1:{port}")
        for file in notes.glob("*.py"):
            file.write_text(file.read_text().replace(f"127.0.0.1:{documented}", f"127.0.0.1:{port}"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ONESHEET_")}
    environment |= {"PATH": search_path} | {PORTS[documented]: port for documented, port in ports.items()}

    done = run_command(["bash", "-c", script], cwd=home, env=environment, timeout=900, stdout=None, stderr=None)

    said = {file.name: file.read_text() for file in notes.glob("*.err")}
    assert done.returncode == 0, said
    assert not [name for name, text in said.items() if "Traceback" in text], said
    for number, block in enumerate(found):
        if block.expected:
            _compare(*block.expected, (notes / f"{number}.out").read_text())


def _free_ports() -> dict[str, str]:
    with ExitStack() as held:
        free = {documented: held.enter_context(socket.socket()) for documented in PORTS}
        for listener in free.values():
            listener.bind(("127.0.0.1", 0))
        return {documented: str(listener.getsockname()[1]) for documented, listener in free.items()}


def _step(block: Block, notes: Path) -> str:
    """A block as lines of the one script that a page becomes."""
    lines = [f"exec > {notes}.out 2> {notes}.err"]
    if block.language == "python":
        file = notes.with_suffix(".py")
        file.write_text(block.text)
        return "\n".join([*lines, f"cp {file} {block.title}" if block.title else f"python {file}"])
    text = _UV_RUN.sub("", block.text)
    if not block.stays_up:
        return "\n".join([*lines, text])
    ports = [urlparse(address).port for address in block.stays_up]
    return "\n".join(
        [
            *lines,
            *(f'end "${{owners[{port}]:-}}"' for port in ports),
            f"({text.strip()}) &",
            "started=$!",
            *(f"owners[{port}]=$started" for port in ports),
            *(f"await $started {address}" for address in block.stays_up),
        ]
    )


def _compare(kind: str, expected: str, output: str) -> None:
    """The first line, whatever its numbers are; or the keys, which are the contract."""
    if kind == "json":
        answer = json.loads(output.strip().splitlines()[-1])
        _has_keys(answer, json.loads(expected))
        return
    first = re.escape(expected.splitlines()[0])
    pattern = re.sub(r"\d+(?:\\\.\d+)?", lambda _: r"\d+(?:\.\d+)?", first)
    assert re.search(f"^{pattern}$", output, re.MULTILINE), f"{expected.splitlines()[0]!r} is not in {output!r}"


def _has_keys(answer: Any, documented: Any) -> None:
    if isinstance(documented, dict):
        assert set(documented) <= set(answer), (answer, documented)
        for name, value in documented.items():
            _has_keys(answer[name], value)
    elif isinstance(documented, list) and documented and documented[0] != "...":
        _has_keys(answer[0], documented[0])


# --------------------------------------------------------------------------------------------------- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `inv docs` builds it, with an address of the repository as GitHub has one."""
    folder = tmp_path_factory.mktemp("site")
    built = run_command(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "REPOSITORY_URL": "https://github.com/OWNER/onesheet", "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return folder


@dataclass
class Loads(HTMLParser):
    """What a page loads when it is opened, in `addresses`."""

    addresses: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.addresses.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(given.get("href") or "")


def test_no_page_loads_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30

    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert len(loads.addresses) > 3
        assert not [address for address in loads.addresses if re.match(r"\w+:|//", address)], page
        # The theme's script asks GitHub and GitLab about what is marked so.
        assert 'data-md-component="source"' not in page.read_text(encoding="utf-8")
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)]+", style.read_text(encoding="utf-8")), style


def test_links_out_of_the_pages_lead_to_the_repository(site):
    assert 'href="https://github.com/OWNER/onesheet/blob/main/CONTRIBUTING.md"' in (site / "index.html").read_text()
    assert (
        'href="https://github.com/OWNER/onesheet/blob/main/configs/gates.yaml"'
        in (site / "reference/configuration.html").read_text()
    )


def test_the_model_card_is_the_one_that_ships(site):
    card = (ROOT / "src/onesheet/starter/MODEL_CARD.md").read_text(encoding="utf-8")
    page = (site / "model-card.html").read_text(encoding="utf-8")

    headings = re.findall(r"^## (.+)$", card, re.MULTILINE)
    assert len(headings) > 2
    assert all(f">{heading}<a" in page for heading in headings)
    assert re.search(r"fingerprint `(\w+)`", card)[1] in page
    assert "<!-- include" not in page


def test_the_site_is_searched_from_a_folder_without_a_network(site, browser):
    page = browser.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.context.set_offline(True)
    page.goto((site / "tutorials" / "watch-it.html").as_uri())
    page.locator("[data-md-component=search-query]").press_sequentially("benjamini")
    found = page.locator(".md-search-result__link").first
    found.wait_for(timeout=20_000)

    assert "how-drift-is-judged.html" in (found.get_attribute("href") or "") + " ".join(
        page.locator(".md-search-result__link").evaluate_all("links => links.map(link => link.href)")
    )
    found.click()
    page.locator("h1").first.wait_for()
    assert page.url.startswith("file://")
    assert "drift" in page.locator("h1").first.inner_text().lower()
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))]
    assert errors == []
    page.close()
