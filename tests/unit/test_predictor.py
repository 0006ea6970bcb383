"""Posters to genres: one, many, in any form, on many threads; and graphs that are not what their bundle says."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from onesheet.bundle import Bundle, load_bundle
from onesheet.errors import (
    BundleCorruptError,
    BundleNotFoundError,
    CorruptImageError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    InvalidRequestError,
    NotAFileError,
    NotAnImageError,
)
from onesheet.image import ImageLimits, ImageSource
from onesheet.predictor import (
    Prediction,
    Predictor,
    load_predictor,
    map_batches,
    usable_cores,
)
from tests.processes import MAX_WAIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

COLOURS = {"white": "Comedy", "blue": "Drama", "black": "Horror", "red": "Romance"}


def same(first: Prediction | ImageError, second: Prediction) -> bool:
    assert isinstance(first, Prediction)
    return first.to_dict() == second.to_dict() and np.array_equal(first.embedding, second.embedding)


class Counting(Predictor):
    """Remembers how many pictures each run of the graph was given."""

    def __init__(self, bundle: Bundle, threads: int = 2) -> None:
        super().__init__(bundle, threads=threads)
        self.runs: list[int] = []

    def run(self, pixels: Any) -> Any:
        self.runs.append(len(pixels))
        return super().run(pixels)


@pytest.fixture
def counting(tiny_bundle: Path) -> Counting:
    return Counting(load_bundle(tiny_bundle))


# ----------------------------------------------------------------------------------------------- one poster


@pytest.mark.parametrize(("colour", "genre"), COLOURS.items())
def test_the_genre_of_a_poster(
    predictor: Predictor, make_poster: Callable[..., bytes], colour: str, genre: str
) -> None:
    prediction = predictor.predict(make_poster(colour))

    assert prediction.topk[0].label == genre
    assert prediction.predicted[0] == prediction.topk[0]
    assert prediction.topk[0].probability > 0.9


def test_a_prediction_in_full(predictor: Predictor, make_poster: Callable[..., bytes]) -> None:
    prediction = predictor.predict(make_poster("purple"))

    assert prediction.probabilities.shape == (4,)
    assert prediction.embedding.shape == (8,)
    assert prediction.probabilities.dtype == prediction.embedding.dtype == np.float32
    in_order = [score.probability for score in prediction.topk]
    assert in_order == sorted(map(float, prediction.probabilities), reverse=True)
    assert [score.label for score in prediction.topk] == [
        predictor.genres[i] for i in np.argsort(-prediction.probabilities)
    ]
    assert prediction.to_dict() == {
        "predicted": [{"label": s.label, "probability": round(s.probability, 6)} for s in prediction.predicted],
        "topk": [{"label": s.label, "probability": round(s.probability, 6)} for s in prediction.topk],
        "model": {"name": "tiny", "version": "1.2.3"},
    }


def test_each_genre_has_its_own_threshold(predictor: Predictor, make_poster: Callable[..., bytes]) -> None:
    thresholds = predictor.metadata.thresholds
    seen = set()
    for colour in ("white", "blue", "black", "red", "purple", "grey", "#404040", "#5060a0", "#b06060"):
        prediction = predictor.predict(make_poster(colour, kind="PNG"))
        chosen = {score.label for score in prediction.predicted}
        assert chosen == {s.label for s in prediction.topk if s.probability >= thresholds[s.label]}
        seen |= {score.probability >= thresholds[score.label] for score in prediction.topk}
    assert seen == {True, False}


def test_all_kinds_of_source_give_the_same_prediction(predictor: Predictor, scene: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "poster.png"
    scene.save(path)
    sources: list[ImageSource] = [path, str(path), path.read_bytes(), scene, Image.open(path), np.asarray(scene)]

    alone = [predictor.predict(source) for source in sources]

    assert all(same(prediction, alone[0]) for prediction in alone)
    assert all(map(same, predictor.predict(sources), alone))
    assert all(map(same, predictor.predict(tuple(sources)), alone))
    assert all(map(same, predictor.predict_each(iter(sources)), alone))


def test_a_batch_gives_the_same_as_one_by_one(predictor: Predictor) -> None:
    random = np.random.default_rng(0)
    posters = [random.integers(0, 256, (90, 60, 3), np.uint8) for _ in range(11)]

    for alone, together in zip(map(predictor.predict, posters), predictor.predict(posters), strict=True):
        np.testing.assert_allclose(alone.probabilities, together.probabilities, atol=1e-6)
        np.testing.assert_allclose(alone.embedding, together.embedding, atol=1e-5)


@pytest.mark.parametrize("source", [None, 42, 1.5, {}, bytearray(b"x"), object()])
def test_what_is_no_source_is_an_error_of_the_programmer(predictor: Predictor, source: Any) -> None:
    with pytest.raises(TypeError):
        predictor.predict(source)


# -------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, math.inf, -math.inf])
def test_a_threshold_out_of_range(predictor: Predictor, make_poster: Callable[..., bytes], threshold: float) -> None:
    for ask in (
        predictor.predict,
        lambda *a, **k: predictor.predict([*a], **k),
        lambda *a, **k: list(predictor.predict_each(a, **k)),
    ):
        with pytest.raises(InvalidRequestError, match="threshold must be between 0 and 1"):
            ask(make_poster(), threshold=threshold)


@pytest.mark.parametrize("top_k", [0, -1, 5, 10**9])
def test_a_top_k_out_of_range(predictor: Predictor, make_poster: Callable[..., bytes], top_k: int) -> None:
    sources: list[Any] = [make_poster(), [make_poster()], []]
    for source in sources:
        with pytest.raises(InvalidRequestError, match="top_k must be between 1 and 4"):
            predictor.predict(source, top_k=top_k)


def test_the_ends_of_the_range_are_in_it(predictor: Predictor, make_poster: Callable[..., bytes]) -> None:
    everything = predictor.predict(make_poster("red"), threshold=0, top_k=4)
    nothing = predictor.predict(make_poster("purple"), threshold=1, top_k=1)

    assert everything.predicted == everything.topk
    assert len(everything.topk) == 4
    assert nothing.predicted == ()
    assert len(nothing.topk) == 1


def test_a_probability_equal_to_the_threshold_reaches_it(
    predictor: Predictor, make_poster: Callable[..., bytes]
) -> None:
    best = predictor.predict(make_poster("purple")).topk[0]

    assert predictor.predict(make_poster("purple"), threshold=best.probability).predicted == (best,)


def test_top_k_is_five_or_all_there_are(predictor: Predictor, make_poster: Callable[..., bytes]) -> None:
    assert len(predictor.predict(make_poster()).topk) == 4
    assert len(load_predictor().predict(make_poster()).topk) == 5


def test_the_limits_are_those_given(tiny_bundle: Path, make_poster: Callable[..., bytes]) -> None:
    strict = load_predictor(tiny_bundle, limits=ImageLimits(max_pixels=5399))

    with pytest.raises(ImageTooLargeError):
        strict.predict(make_poster(size=(60, 90)))
    assert strict.predict(make_poster(size=(59, 90)))


# ------------------------------------------------------------------------------------------------ many posters


def test_a_list_is_answered_in_batches_and_in_order(counting: Counting, make_poster: Callable[..., bytes]) -> None:
    colours = list(itertools.islice(itertools.cycle(COLOURS), 27))

    answers = counting.predict([make_poster(colour) for colour in colours])

    assert [answer.topk[0].label for answer in answers] == [COLOURS[colour] for colour in colours]
    assert sorted(counting.runs) == [3, 8, 8, 8]


def test_an_empty_list(counting: Counting) -> None:
    assert counting.predict([]) == []
    assert list(counting.predict_each(iter(()))) == []
    assert counting.runs == []


def test_one_bad_poster_of_a_list_raises_its_error(
    predictor: Predictor, make_poster: Callable[..., bytes], tmp_path: Path
) -> None:
    with pytest.raises(NotAFileError):
        predictor.predict([make_poster(), tmp_path, tmp_path / "missing", make_poster()])


def test_errors_stand_where_their_posters_stood(
    counting: Counting, make_poster: Callable[..., bytes], tmp_path: Path
) -> None:
    bad: dict[int, tuple[Any, type[ImageError]]] = {
        0: (b"text", NotAnImageError),
        3: (tmp_path / "missing.jpg", ImageNotFoundError),
        4: (tmp_path, NotAFileError),
        9: (make_poster()[:300], CorruptImageError),
        10: (np.zeros((5, 5, 5), np.uint8), NotAnImageError),
        19: (b"", ImageError),
    }
    colours = list(itertools.islice(itertools.cycle(COLOURS), 20))
    sources = [bad[i][0] if i in bad else make_poster(colour) for i, colour in enumerate(colours)]

    answers = list(counting.predict_each(sources))

    assert len(answers) == 20
    for i, (answer, colour) in enumerate(zip(answers, colours, strict=True)):
        if i in bad:
            assert isinstance(answer, bad[i][1])
        else:
            assert isinstance(answer, Prediction)
            assert answer.topk[0].label == COLOURS[colour]
    assert sorted(counting.runs) == [3, 5, 6]


def test_a_batch_of_nothing_but_errors_runs_no_model(counting: Counting) -> None:
    answers = list(counting.predict_each([b"text"] * 20))

    assert all(isinstance(answer, NotAnImageError) for answer in answers)
    assert counting.runs == []


def test_one_predictor_serves_many_threads(predictor: Predictor, make_poster: Callable[..., bytes]) -> None:
    posters = [make_poster(colour) for colour in COLOURS] * 25
    expected = [COLOURS[colour] for colour in COLOURS] * 25

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(predictor.predict, posters))

    assert [answer.topk[0].label for answer in answers] == expected


# ----------------------------------------------------------------------------------------------- map_batches


def double(batch: Sequence[int]) -> list[int]:
    return [2 * item for item in batch]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 500])
def test_results_come_in_order(count: int, threads: int) -> None:
    def unevenly(batch: Sequence[int]) -> list[int]:
        time.sleep(0.002 * (batch[0] % 3))
        return double(batch)

    assert list(map_batches(unevenly, range(count), threads)) == [2 * item for item in range(count)]


def test_only_so_much_is_read_ahead() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for item in itertools.count():
            taken.append(item)
            yield item

    results = map_batches(double, endless(), threads=2, batch_size=4)
    assert taken == []  # nothing before it is asked for
    for expected in range(100):
        assert next(results) == 2 * expected
        assert len(taken) <= expected + 4 * (2 * 2 + 2)


def test_an_error_of_the_function_comes_out_in_its_place() -> None:
    def breaks(batch: Sequence[int]) -> list[int]:
        if 12 in batch:
            raise ZeroDivisionError("of the function")
        return double(batch)

    results = map_batches(breaks, range(100), threads=2, batch_size=4)

    assert list(itertools.islice(results, 12)) == [2 * item for item in range(12)]
    with pytest.raises(ZeroDivisionError, match="of the function"):
        next(results)


def test_an_error_of_the_source_comes_out() -> None:
    def breaks() -> Iterator[int]:
        yield from range(10)
        raise ZeroDivisionError("of the source")

    with pytest.raises(ZeroDivisionError, match="of the source"):
        list(map_batches(double, breaks(), threads=2, batch_size=4))


def test_what_nobody_waits_for_is_not_begun() -> None:
    begun = []
    first_done, go_on = threading.Event(), threading.Event()

    def slow(batch: Sequence[int]) -> list[int]:
        begun.append(batch[0])
        if begun != [0]:
            first_done.wait(MAX_WAIT)
            go_on.wait(MAX_WAIT)
        return list(batch)

    results = map_batches(slow, range(100), threads=1, batch_size=1)
    assert next(results) == 0
    first_done.set()
    threading.Timer(0.05, go_on.set).start()
    results.close()  # type: ignore[attr-defined]

    assert len(begun) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("onesheet")]


# ------------------------------------------------------------------------------------------------------ cores


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
        ("garbage", 8),
        ("a b", 8),
        (FileNotFoundError(), 8),
        (PermissionError(), 8),
    ],
    ids=str,
)
def test_the_cores_are_those_of_the_container(
    monkeypatch: pytest.MonkeyPatch, quota: str | OSError, cores: int
) -> None:
    def read_text(path: Path) -> str:
        assert str(path) == "/sys/fs/cgroup/cpu.max"
        if isinstance(quota, OSError):
            raise quota
        return quota + "\n"

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(Path, "read_text", read_text)

    assert usable_cores() == cores


@pytest.mark.parametrize(("counted", "cores"), [(6, 6), (None, 1)])
def test_where_there_is_no_affinity_all_cores_count(
    monkeypatch: pytest.MonkeyPatch, counted: int | None, cores: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    monkeypatch.setattr(Path, "read_text", lambda _: "max 100000")

    assert usable_cores() == cores


# ----------------------------------------------------------------------------------------------- the graph


def with_model(tiny_bundle: Path, model: bytes) -> Bundle:
    bundle = load_bundle(tiny_bundle)
    return dataclasses.replace(bundle, files={**bundle.files, "model.onnx": model})


def edited(tiny_bundle: Path, edit: Callable[[onnx.GraphProto], object]) -> Bundle:
    """The tiny bundle with a valid graph that is a little different."""
    model = onnx.load_from_string(load_bundle(tiny_bundle).model)
    edit(model.graph)
    return with_model(tiny_bundle, model.SerializeToString())


def rename(old: str, new: str) -> Callable[[onnx.GraphProto], None]:
    def edit(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        for value in (*graph.input, *graph.output):
            value.name = new if value.name == old else value.name

    return edit


def drop_embedding(graph: onnx.GraphProto) -> None:
    del graph.output[1]


def more_output(graph: onnx.GraphProto) -> None:
    graph.output.append(helper.make_tensor_value_info("colour", TensorProto.FLOAT, ["N", 3]))


def more_input(graph: onnx.GraphProto) -> None:
    graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, ["N", 3]))


def resize(width: int | str) -> Callable[[onnx.GraphProto], None]:
    def edit(graph: onnx.GraphProto) -> None:
        graph.input[0].CopyFrom(helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, width, 3]))

    return edit


def float_input(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def one_at_a_time(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def fewer_genres(graph: onnx.GraphProto) -> None:
    sizes = {"weights": [3, 3], "bias": [3]}
    for constant in graph.initializer:
        if constant.name in sizes:
            constant.CopyFrom(numpy_helper.from_array(np.zeros(sizes[constant.name], np.float32), constant.name))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3]))


def whole_number_embedding(graph: onnx.GraphProto) -> None:
    rename("embedding", "embedding_before")(graph)
    graph.node.append(helper.make_node("Cast", ["embedding_before"], ["embedding"], to=TensorProto.INT64))
    graph.output[1].CopyFrom(helper.make_tensor_value_info("embedding", TensorProto.INT64, ["N", 8]))


def flat_embedding(graph: onnx.GraphProto) -> None:
    rename("embedding", "embedding_before")(graph)
    graph.node.append(helper.make_node("ReduceMean", ["embedding_before"], ["embedding"], keepdims=0))
    graph.output[1].CopyFrom(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, []))


@pytest.mark.parametrize(
    "edit",
    [
        rename("images", "pictures"),
        rename("probabilities", "scores"),
        drop_embedding,
        more_output,
        more_input,
        resize(25),
        resize("any"),
        float_input,
        one_at_a_time,
        fewer_genres,
        whole_number_embedding,
        flat_embedding,
    ],
)
def test_a_graph_that_breaks_the_promise_is_refused(
    tiny_bundle: Path, edit: Callable[[onnx.GraphProto], object]
) -> None:
    with pytest.raises(BundleCorruptError, match="inputs and outputs are not those"):
        Predictor(edited(tiny_bundle, edit))


@pytest.mark.parametrize("model", [b"", b"not ONNX", b"\x08\x0a" + b"\xff" * 100])
def test_what_is_no_graph_is_refused(tiny_bundle: Path, capfd: pytest.CaptureFixture[str], model: bytes) -> None:
    with pytest.raises(BundleCorruptError, match="not a graph that ONNX Runtime can run"):
        Predictor(with_model(tiny_bundle, model))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "location", ["weights.bin", "./weights.bin", "../weights.bin", "{folder}/weights.bin", "/etc/passwd", "/dev/zero"]
)
def test_a_graph_may_not_read_its_weights_from_other_files(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for folder in (tmp_path, tmp_path / "work"):
        (folder / "weights.bin").write_bytes(bytes(48))

    def outside(graph: onnx.GraphProto) -> None:
        (weights,) = [constant for constant in graph.initializer if constant.name == "weights"]
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location.format(folder=tmp_path), "offset": "0", "length": "48"}.items():
            entry = weights.external_data.add()
            entry.key, entry.value = key, value

    with pytest.raises(BundleCorruptError):
        Predictor(edited(tiny_bundle, outside))


def test_load_predictor_tells_what_is_wrong_with_a_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    (copy / "model.onnx").write_bytes(b"other")

    with pytest.raises(BundleCorruptError, match=r"model\.onnx differs"):
        load_predictor(copy)
    with pytest.raises(BundleNotFoundError):
        load_predictor("nowhere")


def test_the_starter_answers_out_of_the_box() -> None:
    file = io.BytesIO()
    Image.effect_noise((300, 444), 90).convert("RGB").save(file, "JPEG")

    prediction = load_predictor().predict(file.getvalue())

    assert len(prediction.topk) == 5
    assert ((prediction.probabilities > 0) & (prediction.probabilities < 1)).all()
