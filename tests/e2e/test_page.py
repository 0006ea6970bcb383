"""The web page in a real browser, against a real `onesheet up`."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import signal
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from onesheet import load_predictor
from onesheet.predictionlog import DriftRun, DriftRuns, PredictionLog
from onesheet.ui.answers import sentence
from onesheet.ui.samples import SAMPLES, encoded
from tests.processes import MAX_WAIT, eventually

pytestmark = pytest.mark.slow

DUCK, POMBLE = SAMPLES[4], SAMPLES[5]
SECONDS = 1000 * MAX_WAIT


@pytest.fixture(scope="module")
def site(start_site, free_port):
    """The page's address is `site.page`, the API's `site.api`."""
    started = start_site("up", "--api-port", str(free_port()), "--ui-port", str(free_port()))
    started.page, started.api = started.read_addresses(2)
    return started


@pytest.fixture
def visit(browser, site):
    """`visit("model", color_scheme="dark")`: a page of a new visitor."""
    contexts = []

    def opened(path="", url=None, **options):
        options = {"viewport": {"width": 1280, "height": 1000}, **options}
        contexts.append(browser.new_context(accept_downloads=True, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(SECONDS)
        page.goto(f"{url or site.page}/{path}")
        page.locator("h1").wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()


def upload(page, *files):
    """`(name, data)` of each; returns when the page has settled."""
    payload = [{"name": name, "mimeType": "image/jpeg", "buffer": data} for name, data in files]
    page.locator("input[type=file]").set_input_files(payload)
    page.get_by_role("button", name="CSV").wait_for()


def choose(page, name):
    """One of the ways, windows or measures."""
    page.get_by_test_id("stButtonGroup").get_by_text(name, exact=True).click()


def headline(page):
    return page.locator("h2").first.inner_text()


def picture(page):
    """The big poster, as pixels."""
    image = page.get_by_test_id("stImage").locator("img").first
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
    data = page.request.get(image.evaluate("image => image.src")).body()
    return image.get_attribute("alt"), data


def screenshot(page, name):
    """For the documentation, where it is asked for."""
    if folder := os.environ.get("ONESHEET_SCREENSHOTS"):
        page.wait_for_timeout(1500)  # fonts and charts
        page.screenshot(path=Path(folder, f"page-{name}.jpg"), quality=85)


def poster_of(number):
    """Each a little different."""
    noise = np.random.default_rng(number).integers(0, 255, (12, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((300, 450)).save(file, "JPEG")
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------ posters


def test_a_poster_gets_its_genres_and_is_asked_for_once(site, visit):
    before = site.answers()
    page = visit()
    upload(page, ("duck.jpg", encoded(DUCK)))

    predicted = load_predictor().predict(encoded(DUCK)).predicted
    assert headline(page) == sentence([score.label for score in predicted])
    assert picture(page)[0] == "The poster duck.jpg"
    chart = page.get_by_test_id("stVegaLiteChart")
    assert predicted[0].label in (chart.get_attribute("aria-label") or chart.inner_html())
    assert site.answers() == before + 1
    screenshot(page, "posters")

    # Drawn anew, and not asked again: thresholds, another number of genres, another page and back.
    page.get_by_text("Each genre's own threshold").click()
    slider = page.get_by_role("slider", name="Threshold for all genres")
    slider.focus()
    for _ in range(60):
        slider.press("ArrowRight")
    page.get_by_role("heading", name="Hard to say: Comedy, perhaps").wait_for()
    for _ in range(85):
        slider.press("ArrowLeft")
    page.wait_for_function("document.querySelector('h2').innerText.split(',').length > 4")
    assert site.answers() == before + 1


def test_one_of_many_is_broken_and_the_others_are_answered(site, visit, tmp_path):
    page = visit()
    upload(
        page,
        ("one.jpg", poster_of(1)),
        ("broken.jpg", b"no picture at all"),
        ("two.jpg", poster_of(2)),
        ("cut.jpg", poster_of(3)[:700]),
    )
    page.get_by_text("2 posters answered, 2 could not be read").wait_for()
    table = page.get_by_test_id("stTable").first.inner_text()
    assert "The image is truncated or damaged." in table
    screenshot(page, "many")

    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    download.value.save_as(tmp_path / "genres.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "genres.csv").read_text())))
    assert [row["file"] for row in rows] == ["one.jpg", "broken.jpg", "two.jpg", "cut.jpg"]
    assert [bool(row["error"]) for row in rows] == [False, True, False, True]
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    download.value.save_as(tmp_path / "genres.json")
    assert [bool(row.get("genres") is not None) for row in json.loads((tmp_path / "genres.json").read_text())] == [
        True,
        False,
        True,
        False,
    ]


def test_a_sample_is_a_click_away(visit):
    page = visit()
    choose(page, "Samples")
    page.get_by_role("button", name=POMBLE.title).wait_for()
    assert {image.get_attribute("alt") for image in page.get_by_role("img").all()} >= {
        sample.description for sample in SAMPLES
    }
    screenshot(page, "samples")
    page.get_by_role("button", name=POMBLE.title).click()
    page.get_by_role("heading", name=re.compile("Comedy")).wait_for()


def test_pictures_and_links_can_be_pasted(visit):
    page = visit()
    choose(page, "Paste or link")
    box = page.get_by_test_id("stChatInputTextArea")
    box.fill("https://films.example/poster.jpg")
    box.press("Enter")
    page.get_by_text("This API takes no links; save the picture").first.wait_for()

    # As the clipboard of a person who has copied a picture.
    page.evaluate(
        """data => {
            const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
            const clipboard = new DataTransfer();
            clipboard.items.add(new File([bytes], "pasted.jpg", {type: "image/jpeg"}));
            const box = document.querySelector("[data-testid=stChatInputTextArea]");
            box.dispatchEvent(new ClipboardEvent("paste", {clipboardData: clipboard, bubbles: true}));
        }""",
        base64.b64encode(encoded(DUCK)).decode(),
    )
    page.get_by_text("pasted.jpg").first.wait_for()
    page.wait_for_timeout(500)
    page.get_by_test_id("stChatInputSubmitButton").click()
    page.get_by_text("1 posters answered, 1 could not be read").wait_for()


def test_a_poster_can_be_photographed(site, visit):
    page = visit(permissions=["camera"])
    choose(page, "Camera")
    before = site.answers()
    page.wait_for_function("document.querySelector('video')?.readyState >= 3")
    page.wait_for_timeout(1000)  # a first picture
    page.get_by_role("button", name="Take Photo").click()
    page.get_by_text("Answered by the model").wait_for()
    assert site.answers() == before + 1


def test_why_is_painted_over_the_poster(visit):
    page = visit()
    upload(page, ("duck.jpg", encoded(DUCK)))
    _, before = picture(page)
    page.get_by_role("button", name="Why?").click()
    page.get_by_text("Orange spoke for Comedy").wait_for()
    alt, comedy = picture(page)
    assert "orange: parts that spoke for Comedy" in alt
    assert comedy != before
    screenshot(page, "why")

    page.get_by_role("combobox", name="What spoke for").click()
    page.get_by_role("option", name="Drama", exact=True).click()
    page.get_by_text("Orange spoke for Drama").wait_for()
    assert picture(page)[1] not in (before, comedy)


def test_similar_posters_are_named(visit):
    page = visit()
    upload(page, ("duck.jpg", encoded(DUCK)))
    page.get_by_text("Posters that the model sees as similar").click()
    page.get_by_role("button", name="Look for them").click()
    page.get_by_text("Distance 0: the model sees no difference").wait_for()
    assert len(re.findall(r"tt\d{7}", page.get_by_test_id("stTable").last.inner_text())) == 6


def test_feedback_is_thanked_stored_and_shown(site, visit):
    page = visit()
    upload(page, ("pomble.jpg", encoded(POMBLE)))
    page.get_by_text("Right or wrong?").click()
    page.get_by_role("button", name="Comedy", exact=True).or_(page.get_by_text("Comedy", exact=True)).last.wait_for()
    pills = page.get_by_test_id("stButtonGroup").last
    said = {score.label for score in load_predictor().predict(encoded(POMBLE)).predicted}
    for genre in sorted(said - {"Animation", "Comedy"}):
        pills.get_by_text(genre, exact=True).click()
    pills.get_by_text("Music", exact=True).click()
    page.get_by_role("button", name="Send").click()
    page.get_by_text("Thank you.").wait_for()
    screenshot(page, "feedback")

    with closing(PredictionLog(site.log_url)) as log:
        (kept,) = log.feedback()
    assert set(kept.genres) == {"Animation", "Comedy", "Music"}
    monitoring = visit("monitoring")
    monitoring.get_by_text("1 answers were judged.").wait_for()
    monitoring.get_by_role("heading", name="Traffic").wait_for()
    monitoring.get_by_text("Nothing was compared yet.").wait_for()
    screenshot(monitoring, "monitoring")


# ----------------------------------------------------------------------------------------------- the other views


@pytest.fixture(scope="module")
def compared(site):
    """A comparison that found drift, in the log; what it knows is what `onesheet drift --json` tells."""
    column = {"kind": "picture", "p_value": 1e-9, "q_value": 1e-8, "reference": 30.0, "current": 2.0, "distance": 0.8}
    watched = [
        {**column, "name": "sharpness", "verdict": "drift"},
        {**column, "name": "embedding", "verdict": "warning", "reference": None, "current": None},
        {**column, "name": "probability:Drama", "verdict": "ok"},
    ]
    result = {
        "verdict": "drift",
        "n": 1234,
        "pictures": 1200,
        "blind": True,
        "other_models": {"starter 2.0.0": 4321},
        "summary": "In 1200 pictures there moved: sharpness, embedding.",
        "since": "2026-11-16T12:00:00+00:00",
        "until": "2026-11-23T12:00:00+00:00",
        "model": {"name": "starter", "version": "1.0.0"},
        "watched": watched,
        "genres": [{"genre": "Drama", "reference": 0.5, "current": 0.25}],
    }
    time = datetime(2026, 11, 23, 12, tzinfo=UTC)
    with closing(PredictionLog(site.log_url)) as log:
        run = DriftRun(uuid4(), time, "starter", "1.0.0", "drift", result, has_report=True)
        DriftRuns(log).add(
            run, b"<p>What Evidently drew</p>" + b"<script>parent.parent.document.title = 'reached'</script>"
        )


def test_drift_is_told_and_shown(compared, visit, tmp_path):
    page = visit("monitoring")
    page.get_by_text("Posters no longer look as they did").wait_for()
    page.get_by_text("1,234 answers of starter 1.0.0 from 16 Nov 2026 12:00 to 23 Nov 2026 12:00").wait_for()
    page.get_by_text("Most predictions were made by another model version").wait_for()
    for described in ("Distances: sharpness 0.80, the pictures as the model sees them 0.80", "Drama 50% and 25%"):
        page.locator(f"[aria-label*='{described}']").first.wait_for()
    page.get_by_text("As a table").click()
    table = page.get_by_test_id("stTable").filter(has_text="mean before").inner_text()
    assert "sharpness drift 30 2 0.80 1e-08" in " ".join(table.split())

    page.get_by_text("Show the report").click()
    page.frame_locator("iframe").frame_locator("iframe").get_by_text("What Evidently drew").wait_for()
    assert page.title() != "reached", "scripts of a report stay within it"
    with page.expect_download() as download:
        page.get_by_role("button", name="Download it").click()
    download.value.save_as(tmp_path / "report.html")
    assert "What Evidently drew" in (tmp_path / "report.html").read_text()


def test_the_model_is_described(visit):
    page = visit("model")
    page.get_by_role("heading", name="Genre by genre").wait_for()
    page.get_by_role("heading", name="Do the probabilities mean what they say?").wait_for()
    screenshot(page, "model")
    choose(page, "recall")
    page.get_by_text("Recall: of the posters of this genre").wait_for()
    page.get_by_text("The whole model card").click()
    page.get_by_text("What it is not for").first.wait_for()
    assert page.locator("h1").count() == 1


def test_on_a_phone_nothing_sticks_out(visit):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    upload(page, ("duck.jpg", encoded(DUCK)))
    page.get_by_role("heading", name=re.compile("Comedy")).wait_for()
    screenshot(page, "phone")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for element in page.locator("img, button, [data-testid=stVegaLiteChart]").all():
        box = element.bounding_box()
        assert box is None or box["x"] + box["width"] <= 391


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_systems_colours_and_anybody_can_use_it(compared, visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    def serious(page):
        page.wait_for_timeout(1000)
        found = Axe().run(page).response["violations"]
        return [
            (one["id"], [node["html"][:200] for node in one["nodes"]])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]

    page = visit(color_scheme=scheme)
    red, green, blue = map(
        int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor"))[:3]
    )
    assert (red + green + blue > 600) == (scheme == "light")
    assert serious(page) == []
    upload(page, ("duck.jpg", encoded(DUCK)))
    page.get_by_role("button", name="Why?").click()
    page.get_by_text("Orange spoke for Comedy").wait_for()
    assert serious(page) == []
    if scheme == "dark":
        screenshot(page, "dark")
    choose(page, "Samples")
    page.get_by_role("button", name=POMBLE.title).wait_for()
    assert serious(page) == []
    for path, heading in (("model", "Genre by genre"), ("monitoring", "What moved, and how far")):
        other = visit(path, color_scheme=scheme)
        other.get_by_role("heading", name=heading).wait_for()
        assert serious(other) == []


def test_it_can_be_used_with_the_keyboard_alone(visit):
    page = visit()
    choose(page, "Samples")
    page.get_by_role("button", name=DUCK.title).wait_for()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == DUCK.title:
            break
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=re.compile("Comedy")).wait_for()


# ------------------------------------------------------------------------------------------------------ trouble


def test_an_api_that_goes_and_comes_back(visit, start_site, free_port, tmp_path):
    port, page_port = free_port(), free_port()
    # Both below a sub-path, as behind a proxy that passes it on.
    below = {"ONESHEET_ROOT_PATH": "/genres", "ONESHEET_UI_BASE_PATH": "films"}
    serve = ("serve", "--port", str(port))
    api = start_site(*serve, folder=tmp_path / "api", **below)
    start = start_site("ui", "--api", f"http://127.0.0.1:{port}/genres", "--port", str(page_port), **below)
    (url,) = start.read_addresses(1)
    assert url == f"http://127.0.0.1:{page_port}/films"
    page = visit(url=url)
    upload(page, ("duck.jpg", encoded(DUCK)))
    assert api.stop(signal.SIGTERM) == 0

    page.get_by_text("cannot be reached. This page goes on by itself").first.wait_for()
    # What was answered stays; what is new has to wait.
    assert "Comedy" in headline(page)
    screenshot(page, "api-away")
    start_site(*serve, folder=tmp_path / "api", **below)
    page.get_by_text("cannot be reached").first.wait_for(state="detached")
    upload(page, ("pomble.jpg", encoded(POMBLE)))
    page.get_by_text("2 posters answered").wait_for()


def test_twenty_visitors_at_once(site, browser):
    """That they are all served; how fast, a machine that is busy with other tests cannot say."""
    before, context = site.answers(), browser.new_context()
    pages = [context.new_page() for _ in range(20)]
    for page in pages:
        page.set_default_timeout(SECONDS)
        page.goto(site.page)
    for number, page in enumerate(pages):
        page.locator("input[type=file]").set_input_files(
            {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": poster_of(100 + number)}
        )
    for page in pages:
        page.get_by_text("Answered by the model").wait_for()
        page.get_by_text("Each genre's own threshold").click()
    for page in pages:
        page.get_by_text("Answered by the model").wait_for()
        assert page.get_by_test_id("stAlert").count() == 0
    assert site.answers() == before + 20
    context.close()


# ---------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_up_stops_both(start_site, free_port, how, code):
    site = start_site(
        "up", "--api-port", str(free_port()), "--ui-port", str(free_port()), ONESHEET_WORKERS="2", ONESHEET_THREADS="1"
    )
    addresses = site.read_addresses(2)
    assert [httpx.get(url).status_code for url in (addresses[0], f"{addresses[1]}/livez")] == [200, 200]
    family = psutil.Process(site.process.pid).children(recursive=True)
    assert site.stop(how) == code
    assert psutil.wait_procs(family, timeout=60)[1] == []  # one that is killed can only be noticed by them
    for url in addresses:
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
    assert "Traceback" not in site.errors.read_text()


def test_a_port_that_is_taken(site, start_site, free_port):
    taken = site.page.rpartition(":")[2]
    other = start_site("up", "--api-port", str(free_port()), "--ui-port", taken)
    assert other.process.wait(MAX_WAIT) == 1
    assert (
        f"port {taken}, meant for the web page, is taken; name another one with --ui-port" in other.errors.read_text()
    )
    api_taken = site.api.rpartition(":")[2]
    third = start_site("up", "--api-port", api_taken, "--ui-port", str(free_port()))
    assert third.process.wait(MAX_WAIT) == 1
    assert f"port {api_taken}, meant for the API, is taken" in third.errors.read_text()


def test_when_the_api_ends_so_does_the_page_and_it_is_said(start_site, free_port):
    site = start_site("up", "--api-port", str(free_port()), "--ui-port", str(free_port()))
    page, _ = site.read_addresses(2)
    api = next(child for child in psutil.Process(site.process.pid).children() if "serve" in child.cmdline())
    api.kill()
    assert site.process.wait(MAX_WAIT) == 1
    assert "onesheet: the API has ended by itself" in site.errors.read_text()
    assert eventually(lambda: is_gone(page))


def is_gone(address):
    try:
        httpx.get(address)
    except httpx.TransportError:
        return True
    return False


def test_a_page_that_fails_is_noticed_while_the_api_starts(start_site, free_port, tmp_path):
    """However long that takes."""
    hook = "import sys, time\n" + "".join(
        f"if {module!r} in sys.orig_argv:\n    {what}\n"
        for module, what in {"onesheet.ui": "sys.exit('no streamlit')", "serve": "time.sleep(600)"}.items()
    )
    (tmp_path / "sitecustomize.py").write_text(hook)
    ports = ("--api-port", str(free_port()), "--ui-port", str(free_port()))
    site = start_site("up", *ports, PYTHONPATH=str(tmp_path))
    assert site.process.wait(120) == 1
    assert "onesheet: the web page did not start; what it said stands above" in site.errors.read_text()


def test_a_bundle_that_is_not_there(start_site, free_port):
    site = start_site("up", "--bundle", "nowhere", "--api-port", str(free_port()), "--ui-port", str(free_port()))
    assert site.process.wait(MAX_WAIT) == 1
    assert "no bundle" in site.errors.read_text().lower()
