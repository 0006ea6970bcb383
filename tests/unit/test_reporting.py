"""`onesheet report`: what a report's own questions ask for, what is found, and the page."""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from onesheet.errors import InvalidRequestError, ReportError
from onesheet.reporting import html as html_page
from onesheet.reporting.check import check_report
from onesheet.reporting.html import write_report
from onesheet.reporting.limits import Span, pictures_asked, words_asked
from onesheet.reporting.parse import parse_report, read_report

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
OWN = ROOT / "reports/README.md"
ADDRESS = "is an address; put the picture into the report's folder"


def question(answer: str, asked: str = "", number: int = 1, said: str = "> Answer:\n\n") -> str:
    """A question in the form of the template, with what it asks for."""
    quoted = "".join(f">\n> {line}\n" for line in asked.splitlines())
    return f"### Question {number}\n\n> **What did you do?**\n{quoted}>\n{said}{answer}\n"


def findings(text: str, folder: Path = ROOT) -> list[tuple[int | None, str]]:
    return [(finding.question, finding.kind) for finding in check_report(parse_report(text), folder)]


def messages(text: str, folder: Path = ROOT) -> list[str]:
    return [str(finding) for finding in check_report(parse_report(text), folder)]


# ------------------------------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(
    ("said", "low", "high"),
    [
        ("Recommended answer length: 100-200 words", 100, 200),
        ("Recommended answer length: 100-200 words.", 100, 200),
        ("Recommended answer length 200-400 words.", 200, 400),
        ("Answer length: 50-100 words", 50, 100),
        ("100-300 words", 100, 300),
        ("Recommended answer length: 0-200 words.", 0, 200),
        ("Recommended answer length: 200-300 words + 1 to 3 screenshots.", 200, 300),
        ("Length: 100 – 200 words", 100, 200),
        ("between 100 and 200 words", 100, 200),
        ("100 to 200 words", 100, 200),
        ("recommended length: 100-200", 100, 200),
        ("Use 200 - 100 words", 100, 200),
        ("at least 50 words", 50, None),
        ("Minimum 50 words", 50, None),
        ("at most 200 words", 0, 200),
        ("max. 200 words", 0, 200),
        ("no more than 200 words", 0, 200),
        ("Recommended answer length: 200 words", 0, 200),
    ],
)
def test_lengths_are_read_from_the_words_of_a_question(said, low, high):
    assert words_asked(f"**What did you do?**\n\n{said}\n\nExample:\n*In 5-10 words ...*") == Span(low, high)


@pytest.mark.parametrize(
    "said", ["", "Explain with your own words.", "Example:\n*Team 1-2 did it*", "version 3.11-3.13"]
)
def test_without_a_length_any_will_do(said):
    assert words_asked(f"**What did you do?**\n\n{said}") is None


@pytest.mark.parametrize(
    ("said", "low", "high"),
    [
        ("Add/insert 1-3 images/screenshots of it.", 1, 3),
        ("Upload 1 to 3 screenshots that show the experiments.", 1, 3),
        ("Recommended answer length: 200-300 words + 1 to 3 screenshots.", 1, 3),
        ("**Insert 1-2 images of your bucket, such that we see it.**", 1, 2),
        ("Add one or two figures", 1, 2),
        ("Include at least one screenshot", 1, None),
        ("Include at least two nice screenshots", 2, None),
        ("one or more images", 1, None),
        ("upload 2+ images", 2, None),
        ("insert an image", 1, None),
        ("Include a figure that describes the overall architecture.", 1, None),
        ("Upload screenshots of your dashboard.", 1, None),
        ("insert images.", 1, None),
        ("upload one image", 1, 1),
        ("Answer in 100-200 words with two pictures", 2, 2),
        ("Upload up to 3 screenshots", 0, 3),
        ("at most three images", 0, 3),
    ],
)
def test_pictures_are_read_from_the_words_of_a_question(said, low, high):
    assert pictures_asked(said) == Span(low, high)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "You can take inspiration from [this figure](figures/1-2 images.png).",
        "Example:\n*As seen in the first image, insert an image*",
        "This may include loss graphs, logged images, hyperparameter sweeps etc.",
        "Explain how you used docker images in 100-200 words.",
        "How many docker images did you build? Include how you would run your docker images.",
        "Trained on 10000 images",
        "Does your API work with one image at a time, or did you have an image for each?",
        "How did you work with images?",
    ],
)
def test_other_words_ask_for_no_picture(said):
    assert pictures_asked(said) is None


# ------------------------------------------------------------------------------------------- the questions


def test_a_report_is_its_sections_and_questions():
    text = (
        "Above.\n# Exam report\n\nHow to.\n\n## Checklist\n\n* [x] done\n\n## Group\n\n> About you.\n\n"
        + question("We did it.", "Recommended answer length: 0-20 words.")
        + "#### Details\n\nMore of it.\n\nA line\n---\n\nThe end.\n\n## Code\n\n"
        + question("Nothing.", number=2)
    )
    report = parse_report(text)

    assert report.title == "Exam report"
    assert [(section.title, len(section.questions)) for section in report.sections] == [
        ("", 0),
        ("", 0),
        ("Checklist", 0),
        ("Group", 1),
        ("Code", 1),
    ]
    first, second = report.questions
    assert (first.number, first.title, first.words_asked) == (1, "What did you do?", Span(0, 20))
    assert first.words == len(["We", "did", "it.", "Details", "More", "of", "it.", "A", "line", "The", "end."])
    assert (second.answer, second.words_asked, second.pictures_asked) == ("Nothing.", None, None)


@pytest.mark.parametrize(
    "said", ["> Answer:\n\n", "> Answer:\n", "Answer: ", "> Answer: ", "> **Answer:**\n\n", ">\n\n"]
)
def test_an_answer_begins_below_the_question(said):
    (found,) = parse_report(question("We did it.\n\n> A quotation.", said=said)).questions
    assert (found.answer, found.words) == ("We did it.\n\n> A quotation.", 5)


def test_windows_line_ends_and_no_answer_at_all():
    (found,) = parse_report("### Question 1\r\n> **Why?**\r\n>\r\n> Answer:\r\n").questions
    assert (found.title, found.answer, found.empty) == ("Why?", "", True)


def test_words_that_count():
    answer = (
        "One **two**, `three four` and [five](https://example.org/not-this) – six\nseven!\n\n"
        "![not counted](figures/a.png)\n\n```bash\nnot counted\n```\n\n    nor this\n\n<!-- nor this -->\n\n"
        "- eight\n- 9\n\n| ten | eleven |\n|---|---|\n| twelve | – |\n"
    )
    (found,) = parse_report(question(answer)).questions
    assert found.words == 13
    assert [(picture.alt, picture.target) for picture in found.pictures] == [("not counted", "figures/a.png")]


# -------------------------------------------------------------------------------------------- the findings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (question("word " * 212, "Answer length: 50-100 words"), "question 1: 212 words, and 50 to 100 are asked for"),
        (question("word", "at least 50 words"), "question 1: 1 word, and at least 50 are asked for"),
        (question("Text.", "Upload 1 to 3 screenshots"), "question 1: 0 pictures, and 1 to 3 are asked for"),
        (question("Text.", "upload one image"), "question 1: 0 pictures, and 1 is asked for"),
        (question(""), "question 1: has no answer"),
        (question("<!-- nothing -->"), "question 1: has no answer"),
        (
            question("--- question 7 fill here ---", number=7),
            "question 7: has no answer yet: the template's own line is still there",
        ),
        (question("Text.\n\n<!-- declared empty: no group -->"), "question 1: is declared empty, and has an answer"),
        (question("<!-- declared empty: -->"), "question 1: has no answer"),
        (question("Text.") * 2, "question 1: is there 2 times"),
        (question("Text.") + question("Text.", number=4), "questions 2 to 3 are missing"),
        (question("Text.") + question("Text.", number=3), "question 2 is missing"),
        ("# Report", 'there is no heading such as "### Question 1"'),
    ],
)
def test_what_is_found(text, message):
    assert messages(text) == [message]


@pytest.mark.parametrize("opened", ["```\ncode", "<!-- a comment", "~~~"])
def test_what_is_never_closed_hides_no_question(opened):
    text = question(f"Text.\n\n{opened}") + question("Text.", number=2)
    assert findings(text) == [(2, "questions")]
    assert findings(question("Text.") + question("Text.", number=2).replace("### ", "###")) == [(2, "questions")]


@pytest.mark.parametrize(
    "text",
    [
        question("word " * 50, "Answer length: 50-100 words"),
        question("word " * 100, "Answer length: 50-100 words"),
        question("", "Recommended answer length: 0-200 words."),
        question("<!-- declared empty: no group -->", "Answer length: 50-100 words\nInsert 1-2 images"),
        question("<!-- Declared empty:\nno group\nhas been made -->"),
        question("Text.\n\n```\n### Question 1\n```"),
    ],
)
def test_what_is_as_asked_for(text):
    assert messages(text) == []


def test_a_declaration_has_a_reason():
    (found,) = parse_report(question("<!-- declared empty: no\ngroup -->")).questions
    assert (found.declared_empty, found.empty) == ("no group", True)
    (code,) = parse_report(question("```\n<!-- declared empty: no group -->\n```")).questions
    assert (code.declared_empty, code.empty) == (None, False)


# --------------------------------------------------------------------------------------------- the pictures


@pytest.fixture
def folder(make_poster: Callable[..., bytes], make_png: Callable[..., bytes], tmp_path: Path) -> Path:
    """A report's folder, with pictures in it and beside it."""
    folder = tmp_path / "reports"
    (folder / "figures").mkdir(parents=True)
    files = {
        "reports/figures/a.png": make_poster("red", kind="PNG"),
        "reports/figures/b c.jpg": make_poster("blue"),
        "reports/figures/wide.png": make_poster(size=(900, 20), kind="PNG"),
        "reports/figures/cut.jpg": make_poster()[:400],
        "reports/figures/text.png": b"I am a text.",
        "reports/figures/film.gif": make_poster(kind="GIF"),
        "reports/figures/bomb.png": make_png(60_000, 60_000),
        "secret.png": make_poster(kind="PNG"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        ("figures/a.png", None),
        ("./figures/a.png", None),
        ("figures/b%20c.jpg", None),
        ("<figures/b c.jpg>", None),
        ("figures/wide.png", None),
        ("figures/../figures/a.png", None),
        ("figures/none.png", "no such file"),
        ("figures", "is a folder; name a picture file"),
        ("", "names no file"),
        ("figures/a.png%00", "is no name of a file"),
        ("figures/cut.jpg", "the image is truncated or damaged"),
        ("figures/text.png", "the file is not a JPEG, PNG, WebP or GIF picture"),
        ("figures/film.gif", "is neither PNG nor JPEG"),
        ("figures/bomb.png", "at most 25 megapixels are read"),
        ("../secret.png", "is outside the report's folder"),
        ("figures/../../secret.png", "is outside the report's folder"),
        ("%2e%2e/secret.png", "is outside the report's folder"),
        ("/etc/passwd", "is outside the report's folder"),
        ("https://example.org/a.png", ADDRESS),
        ("//example.org/a.png", ADDRESS),
        ("data:image/png;base64,iVBORw0KGgo=", ADDRESS),
    ],
)
def test_pictures_are_real_and_in_the_folder(folder, target, wrong):
    found = messages(question(f"![A poster]({target})"), folder)
    assert len(found) == (wrong is not None)
    assert all(message.endswith(f"cannot be shown: {wrong}") for message in found)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_a_link_does_not_lead_out_of_the_folder(folder):
    (folder / "figures/link.png").symlink_to(folder.parent / "secret.png")
    assert findings(question("![A poster](figures/link.png)"), folder) == [(1, "picture")]


def test_a_picture_has_words_and_is_counted(folder):
    two = "![](figures/a.png) [![A poster](figures/a.png)](https://example.org)"
    assert findings(question(two, "Upload 1-2 images"), folder) == [(1, "alt")]
    assert findings(question(two, "Upload one image"), folder) == [(1, "pictures"), (1, "alt")]


def test_pictures_in_html_are_pictures(folder):
    """As people place two beside each other, and as others write them."""
    pair = (
        'Left and right.\n\n<p float="left">\n  <img src="figures/a.png" width="49%" alt="A &amp; B" />\n'
        "  <IMG alt='x > y'\n src='figures/b%20c.jpg'>\n</p>\n"
    )
    (found,) = parse_report(question(pair)).questions
    assert [(picture.alt, picture.target) for picture in found.pictures] == [
        ("A & B", "figures/a.png"),
        ("x > y", "figures/b%20c.jpg"),
    ]
    assert found.words == 3
    assert findings(question(pair, "Upload 1 to 3 screenshots"), folder) == []
    bare = question('<img src="figures/a.png"> <img src="https://example.org/a.png" alt="away"> <img alt="none">')
    assert [kind for _, kind in findings(bare, folder)] == ["alt", "picture", "picture"]
    (code,) = parse_report(question('`<img src="figures/a.png">`\n\n    <img src="figures/a.png">')).questions
    assert code.pictures == ()


# -------------------------------------------------------------------------------------------------- the page


class Links(HTMLParser):
    """What a page names: its elements, and where they lead."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.resources: list[str] = []
        self.leads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            {"href": self.leads, "id": self.ids}.get(name, self.resources if name in ("src", "srcset") else []).append(
                value or ""
            )


def test_the_page_needs_nothing_but_itself(folder, tmp_path):
    text = (
        "# A <b>report</b>\n\n## Part\n\n* [x] done\n* [ ] not\n\n"
        + question(
            "<script>alert(1)</script> <img src=x onerror=alert(1)>\n\n<div onclick='x'>\n\n"
            "![A poster](figures/a.png) ![out](../secret.png) ![there](https://example.org/a.png)\n\n"
            "[away](https://example.org) [here](figures/a.png) [bad](javascript:alert(1))\n\n<!-- unseen -->"
        )
        + question("<!-- declared empty: no <i>group</i> -->", number=2)
    )
    out = tmp_path / "new/page.html"
    write_report(parse_report(text), folder, out)
    page = out.read_text()
    links = Links()
    links.feed(page)

    assert [source[:22] for source in links.resources] == ["data:image/png;base64,"]
    assert [lead for lead in links.leads if not lead.startswith("#")] == ["https://example.org"]
    assert {lead[1:] for lead in links.leads if lead.startswith("#")} == set(links.ids)
    assert not {"script", "b", "i", "link", "iframe", "div"} & set(links.tags)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "☑ done" in page
    assert "☐ not" in page
    assert "unseen" not in page
    assert "Left empty: no &lt;i&gt;group&lt;/i&gt;" in page
    assert "[out: ../secret.png cannot be shown: is outside the report's folder]" in unescape(page)
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_pictures_in_html_are_in_the_page_and_those_that_are_not_are_told(folder, onesheet):
    file, page = folder / "README.md", folder / "report.html"
    file.write_text(
        "# Report\n\n<img src='figures/none.png' alt='above'>\n\n## Part\n\n"
        + question(
            '<p float="left" onclick="x">\n'
            '<img src="figures/a.png" alt=\'A "poster"\' width="49%" onerror="alert(1)">\n'
            '<img src="https://example.org/b.png" alt="away" style="x"><img src="../secret.png" width="9e9">\n</p>'
        )
    )
    done = onesheet("report", "html", file, "--out", page)
    links = Links()
    links.feed(page.read_text())
    assert done.code == 0
    assert [source[:22] for source in links.resources] == ["data:image/png;base64,"]
    assert 'alt="A &quot;poster&quot;" width="49%"' in page.read_text()
    assert "float=" not in page.read_text()
    assert done.err.splitlines()[:3] == [
        "onesheet: picture figures/none.png is not shown: no such file",
        f"onesheet: picture https://example.org/b.png is not shown: {ADDRESS}",
        "onesheet: picture ../secret.png is not shown: is outside the report's folder",
    ]


def test_pictures_are_bounded_together(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(html_page, "MAX_PICTURE_BYTES", 2 * (folder / "figures/a.png").stat().st_size)
    report = parse_report(question("![A poster](figures/a.png)\n" * 3))
    with pytest.raises(ReportError, match="larger than"):
        write_report(report, folder, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


# --------------------------------------------------------------------------------------------- the commands


def test_files_that_are_no_report(tmp_path):
    file = tmp_path / "README.md"
    with pytest.raises(InvalidRequestError, match="no such file"):
        read_report(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ReportError, match="UTF-8"):
        read_report(file)
    file.write_bytes(b"a" * (2 * 2**20 + 1))
    with pytest.raises(ReportError, match="larger than 2 MiB"):
        read_report(file)


def test_check_says_what_and_ends_with_a_code(onesheet, folder):
    file = folder / "README.md"
    file.write_text(
        question("Text.", "Answer length: 50-100 words") + question("<!-- declared empty: why -->", number=2)
    )

    done = onesheet("report", "check", file)
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines() == [
        "question 1: 1 word, and 50 to 100 are asked for",
        "question 2: declared empty: why",
        f"{file}: 2 questions, 1 of them declared empty; 1 to mend",
    ]
    done = onesheet("report", "check", file, "--json")
    said = json.loads(done.out)
    assert (done.code, said["ok"]) == (1, False)
    assert said["findings"] == [
        {
            "question": 1,
            "kind": "words",
            "message": "1 word, and 50 to 100 are asked for",
            "count": 1,
            "asked": {"low": 50, "high": 100},
        }
    ]
    assert said["questions"][1]["declared_empty"] == "why"

    page = folder / "report.html"
    done = onesheet("report", "html", file, "--out", page)
    assert (done.code, done.out) == (0, f"{page}\n")
    assert "see onesheet report check" in done.err
    assert page.read_text().startswith("<!doctype html>")

    assert onesheet("report", "check", folder / "none.md").code == 2


def test_the_own_report_is_as_asked_for(onesheet, tmp_path):
    done = onesheet("report", "check", OWN, "--json")
    said = json.loads(done.out)
    assert (done.code, said["findings"]) == (0, [])
    assert [question["number"] for question in said["questions"]] == list(range(1, 32))

    done = onesheet("report", "html", OWN, "--out", tmp_path / "report.html")
    assert (done.code, done.err) == (0, "")
    links = Links()
    links.feed((tmp_path / "report.html").read_text())
    assert links.resources
    assert all(source.startswith("data:image/") for source in links.resources)


def test_its_figures_are_those_of_the_documentation(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from tasks import REPORT_FIGURES

    for name in REPORT_FIGURES:
        assert (OWN.parent / "figures" / name).read_bytes() == (ROOT / "docs/images" / name).read_bytes(), name
    shown = set(re.findall(r"\(figures/([^)]+)\)", OWN.read_text()))
    assert {file.name for file in (OWN.parent / "figures").iterdir()} == shown
    assert sum(file.stat().st_size for file in (OWN.parent / "figures").iterdir()) < 2**20
