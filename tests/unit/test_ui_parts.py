"""What the web page is made of, without a browser."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from onesheet.errors import ApiError, ApiUnavailableError, ImageError
from onesheet.ui.answers import Answer, Answers, Poster, as_csv, as_json, sentence
from onesheet.ui.heatmap import for_screen, overlay
from onesheet.ui.model_page import wilson
from tests.processes import MAX_WAIT

CONTENT = {
    "prediction_id": "1",
    "topk": [{"label": "Drama", "probability": 0.6}, {"label": "Comedy", "probability": 0.3}],
    "model": {"name": "tiny", "version": "1"},
}
THRESHOLDS = {"Drama": 0.5, "Comedy": 0.2}


def test_a_poster_is_asked_for_once_whatever_its_name():
    asked = Counter()

    def ask(poster):
        asked[poster.key] += 1
        return CONTENT

    answers = Answers(ask)
    posters = [Poster("a.jpg", b"one"), Poster("b.jpg", b"one"), Poster("c.jpg", b"two"), Poster("https://x/y", None)]
    steps = []
    first = answers.of(posters, lambda done, total: steps.append((done, total)))
    again = answers.of(posters)

    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert set(asked.values()) == {1}
    assert len(asked) == 3
    assert first == again
    assert first[0].probabilities == {"Drama": 0.6, "Comedy": 0.3}


def test_a_broken_poster_is_known_and_an_absent_api_is_tried_again():
    asked = []
    away = [True]

    def ask(poster):
        asked.append(poster.name)
        if poster.name == "broken.jpg":
            raise ApiError("The file is no picture.")
        if away[0]:
            raise ApiUnavailableError("The API cannot be reached.")
        return CONTENT

    answers = Answers(ask)
    posters = [Poster("broken.jpg", b"x"), Poster("good.jpg", b"y")]
    assert [answer.error for answer in answers.of(posters)] == [
        "The file is no picture.",
        "The API cannot be reached.",
    ]
    away[0] = False
    assert [answer.error for answer in answers.of(posters)] == ["The file is no picture.", None]
    assert sorted(asked) == ["broken.jpg", "good.jpg", "good.jpg"]


def test_only_a_few_are_asked_for_at_once():
    under_way, most, lock = [0], [0], threading.Lock()
    all_there = threading.Barrier(4, timeout=MAX_WAIT)

    def ask(_):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        all_there.wait()
        with lock:
            under_way[0] -= 1
        return CONTENT

    Answers(ask).of([Poster(str(number), str(number).encode()) for number in range(12)])
    assert most[0] == 4


@pytest.mark.parametrize(
    ("genres", "words"),
    [
        (["Comedy"], "Comedy"),
        (["Comedy", "Romance"], "Comedy and Romance"),
        (["Comedy", "Drama", "War"], "Comedy, Drama and War"),
    ],
)
def test_genres_as_a_sentence(genres, words):
    assert sentence(genres) == words


def test_downloads_hold_answers_and_errors():
    posters = [Poster("=cmd()", b"a"), Poster("b.jpg", b"b")]
    answers = [Answer.of(CONTENT), Answer(None, {}, "", "The file is empty.")]

    rows = list(csv.DictReader(io.StringIO(as_csv(posters, answers, THRESHOLDS))))
    assert rows[0] == {
        "file": "'=cmd()",
        "genres": "Drama; Comedy",
        "error": "",
        "model": "tiny 1",
        "Comedy": "0.3",
        "Drama": "0.6",
    }
    assert (rows[1]["genres"], rows[1]["error"], rows[1]["Drama"]) == ("", "The file is empty.", "")
    first, second = json.loads(as_json(posters, answers, {"Drama": 0.7, "Comedy": 0.2}))
    assert (first["file"], first["genres"], first["prediction_id"]) == ("=cmd()", ["Comedy"], "1")
    assert second == {"file": "b.jpg", "error": "The file is empty."}


def test_a_poster_for_the_screen_is_small_and_bounded(make_poster):
    assert for_screen(make_poster(size=(2000, 3000))).size == (480, 720)
    assert for_screen(make_poster(size=(60, 90), kind="PNG")).size == (60, 90)
    with pytest.raises(ImageError):
        for_screen(b"no picture")


def test_the_heat_map_colours_what_speaks_for_and_against():
    poster = Image.new("RGB", (80, 120), (100, 100, 100))
    effects = np.zeros((12, 8))
    effects[:4, :4], effects[8:, 4:] = 1.0, -1.0

    plain = np.asarray(overlay(poster, effects.tolist(), 0))
    assert (plain == 100).all()
    painted = np.asarray(overlay(poster, effects.tolist(), 0.8)).astype(int)
    warm, cold, middle = painted[5, 5], painted[115, 75], painted[60, 40]
    assert warm[0] > 200 > warm[2]
    assert cold[2] > 200 > cold[0]
    assert np.abs(middle - 100).max() < 12
    assert (np.asarray(overlay(poster, np.zeros((12, 8)).tolist(), 1)) == 100).all()


def test_the_interval_of_a_share():
    # R: binom::binom.wilson(8, 10)
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 5)[0] == pytest.approx(0)
    assert wilson(5, 5)[1] == pytest.approx(1)
