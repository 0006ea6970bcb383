"""The queue in front of the model: what is answered, what is refused, and when."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import wait

import pytest

from onesheet.bundle import load_bundle
from onesheet.errors import InvalidRequestError, NotAnImageError, NotReadyError, OverloadedError
from onesheet.predictor import Predictor
from onesheet.serving.engine import Engine
from tests.processes import MAX_WAIT


class HeldPredictor(Predictor):
    """Works on nothing before it is let go, and remembers how much it got at once."""

    def __init__(self, bundle) -> None:
        super().__init__(bundle)
        self.go, self.started, self.batches = threading.Event(), threading.Semaphore(0), []

    def run(self, batch):
        self.started.release()
        assert self.go.wait(MAX_WAIT)
        self.batches.append(len(batch))
        return super().run(batch)


@pytest.fixture
def held(tiny_bundle):
    return HeldPredictor(load_bundle(tiny_bundle))


@pytest.fixture
def start():
    """`start(predictor, **options)`: an engine, closed at the end."""
    engines = []

    def started(predictor, **options):
        engines.append(
            Engine(predictor, **{"threads": 1, "max_waiting": 100, "max_batch": 1, "patience": 60, **options})
        )
        return engines[-1]

    yield started
    for engine in engines:
        if isinstance(engine.predictor, HeldPredictor):
            engine.predictor.go.set()
        engine.close()


def test_an_answer_says_what_the_predictor_says_and_what_the_log_keeps(start, predictor, make_poster):
    poster = make_poster("orange")
    answer = start(predictor).submit(poster, top_k=2).result(10)

    assert answer.prediction.to_dict() == predictor.predict(poster, top_k=2).to_dict()
    assert answer.genres == predictor.genres
    assert (answer.statistics["width"], answer.statistics["height"]) == (60, 90)
    assert answer.content_sha256 == hashlib.sha256(poster).hexdigest()
    assert min(answer.timings.queue, answer.timings.decode, answer.timings.model) >= 0


def test_a_broken_picture_fails_alone(start, held, make_poster):
    engine = start(held, max_batch=8)
    first = engine.submit(make_poster())
    held.started.acquire()
    futures = [engine.submit(data) for data in (make_poster("blue"), b"no picture", make_poster("white"))]
    held.go.set()

    assert first.result(10)
    assert futures[0].result(10).prediction.topk[0].label == "Drama"
    assert isinstance(futures[1].exception(10), NotAnImageError)
    assert futures[2].result(10).prediction.topk[0].label == "Comedy"


def test_what_waits_goes_through_the_graph_together_and_nothing_waits_for_more(start, held, make_poster):
    engine = start(held, max_batch=4)
    futures = [engine.submit(make_poster())]
    held.started.acquire()
    futures += [engine.submit(make_poster()) for _ in range(6)]
    held.go.set()
    wait(futures, 10)

    assert held.batches == [1, 4, 2]
    assert [future.result().batch for future in futures] == [1, 4, 4, 4, 4, 2, 2]


def test_more_than_may_wait_is_refused_with_the_time_to_come_again(start, held, make_poster):
    engine = start(held, max_waiting=2)
    engine.submit(make_poster())
    held.started.acquire()
    engine.submit(make_poster())
    engine.submit(make_poster())

    with pytest.raises(OverloadedError) as refused:
        engine.submit(make_poster())
    assert refused.value.retry_after >= 1
    assert engine.waiting == 2


def test_what_could_not_be_answered_in_time_is_refused_at_once(start, held, make_poster):
    engine = start(held, patience=0.1)  # at the first guess of 20 ms for a picture
    for _ in range(3):
        engine.submit(make_poster())
    with pytest.raises(OverloadedError):
        _submit_many(engine, make_poster(), 3)


def _submit_many(engine, poster, number):
    for _ in range(number):
        engine.submit(poster)


def test_a_picture_whose_time_is_up_before_its_turn_is_not_worked_on(start, held, make_poster):
    now = [0.0]
    engine = start(held, patience=5, clock=lambda: now[0])
    engine.submit(make_poster())
    held.started.acquire()
    late = engine.submit(make_poster())
    now[0] = 5.1
    held.go.set()

    assert isinstance(late.exception(10), OverloadedError)
    assert held.batches == [1]


def test_a_picture_nobody_waits_for_any_more_is_not_worked_on(start, held, make_poster):
    engine = start(held)
    first = engine.submit(make_poster())
    held.started.acquire()
    left, stayed = engine.submit(make_poster()), engine.submit(make_poster())
    assert left.cancel()
    held.go.set()

    assert first.result(10)
    assert stayed.result(10)
    assert held.batches == [1, 1]


def test_the_wait_is_learned_from_what_the_last_pictures_took(start, held, make_poster):
    now = [0.0]
    engine = start(held, clock=lambda: now[0])
    before = engine.expected_wait()
    for _ in range(60):
        future = engine.submit(make_poster())
        held.started.acquire()
        now[0] += 1
        held.go.set()
        future.result(10)
        held.go.clear()
    assert before < 0.1
    assert engine.expected_wait() > 0.5


@pytest.mark.parametrize("options", [{"threshold": 2}, {"top_k": 0}])
def test_bad_options_are_told_before_anything_waits(start, predictor, make_poster, options):
    engine = start(predictor)
    with pytest.raises(InvalidRequestError):
        engine.submit(make_poster(), **options)
    assert engine.waiting == 0


def test_an_error_of_the_model_reaches_those_who_asked_and_the_next_are_answered(start, tiny_bundle, make_poster):
    class Failing(Predictor):
        fails = True

        def run(self, batch):
            if self.fails:
                raise ZeroDivisionError
            return super().run(batch)

    engine = start(failing := Failing(load_bundle(tiny_bundle)))
    assert isinstance(engine.submit(make_poster()).exception(10), ZeroDivisionError)
    failing.fails = False
    assert engine.submit(make_poster()).result(10)


def test_another_predictor_answers_what_comes_after(start, held, predictor, make_poster):
    engine = start(held)
    old = engine.submit(make_poster())
    held.started.acquire()
    engine.replace(predictor)
    new = engine.submit(make_poster())
    held.go.set()

    assert old.result(10)
    assert new.result(10)
    assert held.batches == [1]


def test_to_close_is_to_answer_what_was_accepted(start, held, make_poster):
    engine = start(held, threads=2)
    futures = [engine.submit(make_poster()) for _ in range(8)]
    closing = threading.Thread(target=engine.close)
    closing.start()
    held.go.set()
    closing.join(MAX_WAIT)

    assert all(future.result(0) for future in futures)
    with pytest.raises(NotReadyError):
        engine.submit(make_poster())
