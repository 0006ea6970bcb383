"""`onesheet evaluate --report`: a page that is whole, needs nothing else, and says what the numbers say."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from onesheet.bundle import load_bundle, write_bundle
from onesheet.cli import main

Run = Callable[..., tuple[int, str, str]]

VOID = {"meta", "img", "source", "br", "link", "hr", "input"}
SECTIONS = ("metrics", "genres", "figures", "posters", "slices", "robustness", "method")
FIGURES = 5


@dataclass
class Page(HTMLParser):
    """A page taken apart; whoever leaves an element open or closes another gets an error."""

    html: str
    open_: list[str] = field(default_factory=list)
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._said: list[str] = []
        self.feed(self.html)
        self.close()
        assert self.open_ == []
        self.text = " ".join(" ".join(self._said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open_.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_.pop() == tag

    def handle_data(self, data: str) -> None:
        if not set(self.open_) & {"style", "title"}:
            self._said.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def jpegs(self) -> list[Image.Image]:
        prefix = "data:image/jpeg;base64,"
        sources = [image["src"] or "" for image in self.all("img")]
        return [
            Image.open(io.BytesIO(base64.b64decode(source.removeprefix(prefix))))
            for source in sources
            if source.startswith(prefix)
        ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """`run("evaluate", …)` in an empty folder: exit code, standard output, standard error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))

        def call(*arguments: object) -> tuple[int, str, str]:
            out, err = io.StringIO(), io.StringIO()
            with pytest.MonkeyPatch.context() as streams:
                streams.setattr("sys.argv", ["onesheet", *map(str, arguments)])
                streams.setattr("sys.stdout", out)
                streams.setattr("sys.stderr", err)
                with pytest.raises(SystemExit) as exit_:
                    main()
            assert "Traceback" not in err.getvalue()
            return exit_.value.code or 0, out.getvalue(), err.getvalue()

        yield call


@pytest.fixture(scope="module")
def evaluated(tiny_bundle: Path, made_up_posters: Path) -> tuple[object, ...]:
    """Arguments that evaluate the tiny bundle on all made-up posters."""
    images = made_up_posters / "Images"
    return ("evaluate", "--labels", made_up_posters / "train.csv", "--images", images, "--bundle", tiny_bundle)


@pytest.fixture(scope="module")
def with_manifest(made_up_posters: Path, processed: Path) -> tuple[object, ...]:
    return ("--raw", made_up_posters, "--processed", processed)


@pytest.fixture(scope="module")
def report(run: Run, evaluated, with_manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a full report on the test posters."""
    folder = tmp_path_factory.mktemp("reports") / "new" / "full"
    code, out, err = run(*evaluated, *with_manifest, "--split", "test", "--report", folder)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"{folder}/report.html"
    return folder


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text())


@pytest.fixture(scope="module")
def numbers(report: Path) -> dict:
    return json.loads((report / "report.json").read_text())


def brief(folder: Path) -> tuple[Page, dict]:
    return Page((folder / "report.html").read_text()), json.loads((folder / "report.json").read_text())


def test_the_folder_holds_the_page_and_the_numbers_and_nothing_half_written(report):
    assert sorted(path.name for path in report.iterdir()) == [
        "genres.csv",
        "metrics.json",
        "reliability.csv",
        "report.html",
        "report.json",
    ]


def test_parts_of_the_numbers_lie_beside_them_for_programs_that_compare(report, numbers):
    summary = json.loads((report / "metrics.json").read_text())
    assert set(summary) == {"n", *numbers["intervals"]["metrics"]}
    assert summary == {name: numbers[name] for name in summary}
    genres = list(csv.DictReader(io.StringIO((report / "genres.csv").read_text())))
    assert {row["genre"] for row in genres} == set(numbers["per_genre"])
    for row in genres:
        assert float(row["average_precision"]) == numbers["per_genre"][row["genre"]]["average_precision"]
    bins = list(csv.DictReader(io.StringIO((report / "reliability.csv").read_text())))
    assert [float(row["frequency"]) for row in bins] == [b["frequency"] for b in numbers["reliability"] if b["count"]]


def test_the_page_has_every_section_and_says_what_it_is_about(page, numbers):
    assert [section["id"] for section in page.all("section")] == list(SECTIONS)
    assert {link["href"] for link in page.all("a")} == {f"#{section}" for section in SECTIONS}
    for text in (
        "tiny 1.2.3",
        f"posters {numbers['n']}",
        "split test",
        numbers["fingerprint"],
        numbers["created"][:10],
    ):
        assert text in page.text


def test_the_page_needs_nothing_but_itself(page):
    for _, attributes in page.elements:
        for name in ("src", "srcset", "href", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    (style,) = re.findall(r"<style>(.*?)</style>", page.html, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_page_is_for_those_too_who_cannot_see_it(page):
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) == 5
    assert all(cell["scope"] for cell in page.all("th"))
    assert len(page.all("figcaption")) == len(page.all("figure")) == FIGURES


def test_figures_are_drawn_for_light_and_for_dark_pages(page):
    dark = [source["srcset"] for source in page.all("source")]
    light = [image["src"] for image in page.all("img") if "svg" in (image["src"] or "")[:20]]
    assert len(light) == len(dark) == FIGURES
    for one, other in zip(light, dark, strict=True):
        drawings = [base64.b64decode((uri or "").split(",")[1]).decode() for uri in (one, other)]
        assert drawings[0] != drawings[1]
        assert all(drawing.rstrip().endswith("</svg>") for drawing in drawings)


def test_the_numbers_are_those_of_evaluate_and_stand_on_the_page(run, evaluated, with_manifest, page, numbers):
    _, out, _ = run(*evaluated, *with_manifest, "--split", "test", "--json")
    contract = json.loads(out)
    assert {name: numbers[name] for name in contract} == contract
    for name in numbers["intervals"]["metrics"]:
        assert f"{contract[name]:.3f}" in page.text, name
    for genre, scores in contract["per_genre"].items():
        row = f"{genre} {scores['positives']} {scores['predicted']} {scores['precision']:.3f} {scores['recall']:.3f}"
        assert row in page.text.replace(" few ", " ")


def test_every_figure_has_an_interval(numbers):
    metrics = numbers["intervals"]["metrics"]
    assert set(metrics) == set(numbers["support"])
    for name, (low, high) in metrics.items():
        assert 0 <= low < high <= 1, name
    for name in ("f1_micro", "f1_samples", "hamming_loss", "auroc_macro"):
        assert metrics[name][0] < numbers[name] < metrics[name][1]
    for genre, limits in numbers["intervals"]["per_genre"].items():
        low, high = limits["f1"]
        assert low <= numbers["per_genre"][genre]["f1"] <= high


def test_colours_tell_the_made_up_genres_and_the_baseline_finds_that_out(page, numbers):
    colour = numbers["colour_histogram"]
    assert colour["metrics"]["map_macro"] > numbers["baselines"]["training_frequencies"]["map_macro"] + 0.2
    assert colour["metrics"]["f1_micro"] > numbers["baselines"]["every_genre"]["f1_micro"]
    assert (colour["seen"], colour["same_data"]) == (0, False)
    lead = numbers["map_macro"] - colour["metrics"]["map_macro"]
    assert colour["difference"]["map_macro"] == pytest.approx(lead)
    low, high = colour["difference_intervals"]["map_macro"]
    assert low < lead < high < 0
    assert f"The model is worse by {-lead:.3f}" in page.text
    assert "The manifest is not the one that the model was trained with" in page.text


def test_slices_add_up_and_small_ones_are_not_measured(page, numbers):
    for kind in ("colour", "brightness", "aspect", "size"):
        assert sum(part["n"] for part in numbers["slices"] if part["by"] == kind) == numbers["n"]
    assert all(part["map_macro"] is None for part in numbers["slices"] if part["n"] < 30)
    assert "too small to measure" in page.text


def test_robustness_names_the_worst_and_starts_from_the_same_figures(page, numbers):
    robustness = numbers["robustness"]
    assert len(robustness["corrupted"]) == 41
    for name, value in robustness["untouched"].items():
        assert value == pytest.approx(numbers[name])
    worst = min(robustness["corrupted"], key=lambda row: row["map_macro"])
    assert robustness["worst"] == worst
    assert f"{worst['corruption']} at severity {worst['severity']}" in page.text


def test_the_best_and_worst_posters_are_shown_small(page, numbers):
    losses = {kind: [card["cross_entropy"] for card in numbers[kind]] for kind in ("best", "worst")}
    assert losses["best"] == sorted(losses["best"])
    assert losses["worst"] == sorted(losses["worst"], reverse=True)
    assert losses["best"][-1] <= losses["worst"][-1]
    assert len(page.jpegs()) == len(losses["best"]) + len(losses["worst"]) == 24
    assert all(max(picture.size) <= 150 for picture in page.jpegs())
    worst = numbers["worst"][0]
    for answer in worst["answer"]:
        assert answer["right"] == (answer["label"] in worst["true"])
        assert f"{answer['label']} {100 * answer['probability']:.0f} %" in page.text


def test_a_bundle_that_was_trained_with_the_manifest_is_known(run, learned_bundle, evaluated, with_manifest, tmp_path):
    fast = ("--no-robustness", "--no-posters", "--report", tmp_path)
    assert run(*evaluated[:-1], learned_bundle, *with_manifest, "--split", "test", *fast, "--json")[0] == 0
    page, numbers = brief(tmp_path)
    assert numbers["colour_histogram"]["same_data"] is True
    assert numbers["thresholds"] == load_bundle(learned_bundle).metadata.thresholds
    assert "The manifest is not the one" not in page.text


def test_without_posters_there_is_no_picture_but_the_answers(run, evaluated, with_manifest, tmp_path):
    fast = ("--no-robustness", "--no-posters", "--report", tmp_path)
    code, out, err = run(*evaluated, *with_manifest, "--split", "test", *fast, "--json")
    assert (code, err) == (0, "")
    page, numbers = brief(tmp_path)
    assert page.jpegs() == []
    assert "Pictures are left out" in page.text
    assert numbers["worst"][0]["id"] in page.text
    assert json.loads(out)["n"] == numbers["n"]  # nothing but JSON on standard output
    assert numbers["robustness"] is None
    assert "Corrupted posters were not measured" in page.text


def test_without_a_manifest_one_baseline_is_left_out_with_the_reason(run, evaluated, tmp_path):
    code, _, err = run(*evaluated, "--no-robustness", "--no-posters", "--report", tmp_path / "report")
    assert (code, err.count("\n")) == (0, 1)
    page, numbers = brief(tmp_path / "report")
    assert numbers["colour_histogram"]["left_out"].startswith("no manifest at data/processed/manifest.parquet")
    assert "The baseline on colour histograms is left out" in page.text
    assert "model minus colour" not in page.text
    # The tiny bundle's reference names two of these films.
    assert (numbers["seen_at_export"], "these figures flatter the model" in page.text) == (2, True)


def test_without_the_training_posters_too(run, evaluated, made_up_posters, processed, tmp_path):
    raw = shutil.copytree(made_up_posters, tmp_path / "raw", ignore=shutil.ignore_patterns("tt00001*"))
    options = ("--no-robustness", "--no-posters", "--raw", raw, "--processed", processed)
    code, _, err = run(*evaluated, *options, "--split", "test", "--report", tmp_path / "report")
    assert (code, err) == (0, "")
    assert "no such file" in brief(tmp_path / "report")[1]["colour_histogram"]["left_out"]


def test_evaluated_training_posters_flatter_the_baseline_and_the_page_says_so(run, evaluated, with_manifest, tmp_path):
    run(*evaluated, *with_manifest, "--no-robustness", "--no-posters", "--report", tmp_path)
    page, numbers = brief(tmp_path)
    seen = numbers["colour_histogram"]["seen"]
    assert seen > 200
    assert f"{seen} of the evaluated posters are among these" in page.text


def test_hostile_names_are_only_text(run, tiny_bundle, made_up_posters, tmp_path):
    hostile = ("<script>alert(1)</script>", "$\\frac{$", "\"><b onclick='x'>", "&amp;")
    names = dict(zip(("Comedy", "Drama", "Horror", "Romance"), hostile, strict=True))
    film = "<img src=x onerror=alert(2)>"
    bundle = load_bundle(tiny_bundle)
    metadata = bundle.metadata.model_dump(exclude={"schema_version", "files"})
    metadata |= {
        "name": "<i>mine</i>",
        "genres": hostile,
        "thresholds": {names[genre]: value for genre, value in metadata["thresholds"].items()},
        "data": {**metadata["data"], "genre_counts": dict.fromkeys(hostile, 2)},
    }
    write_bundle(metadata, bundle.files, tmp_path / "hostile")
    (tmp_path / "Images").mkdir()
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Id", *hostile])
        for i in range(8):
            writer.writerow([f"{film}{i}", *(int(i % 4 == genre or i == 0) for genre in range(4))])
            shutil.copy(made_up_posters / f"Images/tt000000{i}.jpg", tmp_path / f"Images/{film}{i}.jpg")

    where = ("--labels", tmp_path / "labels.csv", "--images", tmp_path / "Images", "--bundle", tmp_path / "hostile")
    code, _, _ = run("evaluate", *where, "--no-robustness", "--report", tmp_path / "report")
    assert code == 0
    page, _ = brief(tmp_path / "report")
    assert not {"script", "b", "i"} & {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    for text in (*hostile, f"{film}0", "<i>mine</i>"):
        assert text in page.text
    assert len(page.jpegs()) == 8


def test_posters_that_cannot_be_read_are_counted_on_the_page(run, evaluated, made_up_posters, tmp_path):
    rows = (made_up_posters / "train.csv").read_text().splitlines()[:20]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join([*rows, "tt404,['Drama'],0,1,0,0,0"]) + "\n")
    options = ("--no-robustness", "--no-posters", "--report", tmp_path / "report")
    code, _, err = run(*evaluated[:2], labels, *evaluated[3:], *options)
    assert code == 1
    assert "tt404.jpg: no such file" in err
    page, numbers = brief(tmp_path / "report")
    assert "1 poster could not be read" in page.text
    assert numbers["failed"][0]["error"]["code"] == "not_found"


def test_one_poster_makes_a_report_too(run, evaluated, made_up_posters, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join((made_up_posters / "train.csv").read_text().splitlines()[:2]) + "\n")
    code, _, _ = run(*evaluated[:2], labels, *evaluated[3:], "--report", tmp_path / "report")
    assert code == 0
    assert brief(tmp_path / "report")[1]["n"] == 1


def test_a_report_into_a_file_is_refused_before_any_work(run, evaluated, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, out, err = run(*evaluated, "--report", tmp_path / "file")
    assert (code, out) == (2, "")
    assert "is a file" in " ".join(err.replace("│", " ").split())
    code, out, err = run(*evaluated, "--report", tmp_path / "file" / "below")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_a_report_that_fails_leaves_the_old_one(run, evaluated, report, tmp_path, monkeypatch):
    folder = shutil.copytree(report, tmp_path / "report")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr(Path, "replace", fail)
    code, _, err = run(*evaluated, "--no-robustness", "--no-posters", "--report", folder)
    assert (code, err) == (1, "onesheet: report.html: No space left on device\n")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in report.iterdir()
    }
