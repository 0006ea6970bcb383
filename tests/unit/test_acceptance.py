"""A bundle that would answer nothing, or nonsense, is refused with the file and the fault."""

from __future__ import annotations

import dataclasses
import io
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper
from pyarrow import parquet

from onesheet import acceptance
from onesheet.acceptance import accept, accept_bundle
from onesheet.bundle import Bundle, load_bundle
from onesheet.errors import BundleCorruptError, ModelError
from onesheet.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


def with_file(bundle: Bundle, name: str, content: bytes) -> Bundle:
    return dataclasses.replace(bundle, files={**bundle.files, name: content})


def edited(bundle: Bundle, edit: Callable[[onnx.GraphProto], None], name: str = "model.onnx") -> Bundle:
    model = onnx.load_from_string(bundle.model)
    edit(model.graph)
    return with_file(bundle, name, model.SerializeToString())


def constant(graph: onnx.GraphProto, name: str, value: Any, dtype: Any = np.float32) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
    return name


def through(output: str, kind: str, *values: Any, dtype: Any = np.float32) -> Callable[[onnx.GraphProto], None]:
    """An output goes through one more node, whose further inputs are these constants."""

    def edit(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.output[:] = [f"{name}_before" if name == output else name for name in node.output]
        more = [constant(graph, f"more{place}", value, dtype) for place, value in enumerate(values)]
        graph.node.append(helper.make_node(kind, [f"{output}_before", *more], [output]))

    return edit


def undefined_for_dark_pictures(graph: onnx.GraphProto) -> None:
    """The square root of a negative number."""
    for node in graph.node:
        node.output[:] = ["embedding_before" if name == "embedding" else name for name in node.output]
    graph.node.append(helper.make_node("Sub", ["colour", constant(graph, "half", 0.5)], ["shifted"]))
    graph.node.append(helper.make_node("Sqrt", ["shifted"], ["root"]))
    graph.node.append(helper.make_node("MatMul", ["root", "projection"], ["embedding"]))


def hidden(graph: onnx.GraphProto, name: str, value: int) -> str:
    """A whole number that nothing but a run tells: from the number of colours of the pictures."""
    less = constant(graph, "less", [3 - value], np.int64)
    graph.node.insert(0, helper.make_node("Sub", ["colours", less], [name]))
    graph.node.insert(0, helper.make_node("Shape", ["images"], ["colours"], start=3, end=4))
    return name


def only_for_one_picture(graph: onnx.GraphProto) -> None:
    """Looks up the row of the number of pictures, in a table for one."""
    for node in graph.node:
        node.output[:] = ["embedding_before" if name == "embedding" else name for name in node.output]
    table = constant(graph, "table", np.zeros((2, 8)))
    graph.node.append(helper.make_node("Shape", ["images"], ["pictures"], start=0, end=1))
    graph.node.append(helper.make_node("Gather", [table, "pictures"], ["row"]))
    graph.node.append(helper.make_node("Add", ["embedding_before", "row"], ["embedding"]))


def one_embedding_for_all(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.output[:] = ["embedding_before" if name == "embedding" else name for name in node.output]
    hidden(graph, "one", 1)
    graph.node.append(helper.make_node("Concat", ["one", constant(graph, "rest", [-1], np.int64)], ["shape"], axis=0))
    graph.node.append(helper.make_node("Reshape", ["embedding_before", "shape"], ["embedding"]))


def fails_for_bright_pictures(graph: onnx.GraphProto) -> None:
    """Looks a row up that is not there."""
    for node in graph.node:
        node.output[:] = ["embedding_before" if name == "embedding" else name for name in node.output]
    table = constant(graph, "table", np.zeros((200, 8)))
    graph.node.append(
        helper.make_node("ReduceMean", ["samples", constant(graph, "a", [1, 2, 3], np.int64)], ["m"], keepdims=0)
    )
    graph.node.append(helper.make_node("Cast", ["m"], ["row"], to=TensorProto.INT64))
    graph.node.append(helper.make_node("Gather", [table, "row"], ["embedding"]))


def more_outputs(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.output[:] = ["probabilities_before" if name == "probabilities" else name for name in node.output]
    hidden(graph, "two", 2)
    graph.node.append(helper.make_node("Concat", [constant(graph, "once", [1], np.int64), "two"], ["times"], axis=0))
    graph.node.append(helper.make_node("Tile", ["probabilities_before", "times"], ["probabilities"]))


GRAPHS = {
    "not a number": (through("probabilities", "Mul", np.nan), r"\(black\): the model gave a probability of nan"),
    "infinite embedding": (through("embedding", "Add", np.inf), r"\(black\): .*embedding with values that are not"),
    "probability of 2": (through("probabilities", "Add", 2.0), r"\(black\): the model gave a probability of 2"),
    "negative probability": (through("probabilities", "Sub", 2.0), r"\(black\): the model gave a probability of -"),
    "undefined for dark pictures": (undefined_for_dark_pictures, r"\(black\): .*embedding with values that are not"),
    "more outputs than genres": (
        more_outputs,
        r"\(black\): the model gave probabilities of shape \[1, 8\], not \[1, 4\]",
    ),
    "embedding without pictures": (through("embedding", "Reshape", [-1, 1, 8], dtype=np.int64), "."),
    "one embedding for all": (one_embedding_for_all, r"\(all of them\): .*an embedding of shape \[1, 40\]"),
    "one picture at a time": (only_for_one_picture, r"\(all of them\): .*Gather"),
    "fails for bright pictures": (fails_for_bright_pictures, r"\(white\): .*Gather"),
}


@pytest.mark.parametrize(("edit", "fault"), GRAPHS.values(), ids=GRAPHS.keys())
def test_a_graph_that_would_not_answer_every_picture_is_refused(bundle: Bundle, edit: Any, fault: str) -> None:
    with pytest.raises(BundleCorruptError, match=fault):
        accept(Predictor(edited(bundle, edit)))


def test_a_graph_that_does_not_end_is_stopped(endless_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "_SECONDS", 0.3)
    with pytest.raises(BundleCorruptError, match=r"\(black\): no answer within 0\.3 s"):
        accept(Predictor(load_bundle(endless_bundle)))


def test_every_graph_of_a_bundle_is_tried(bundle: Bundle) -> None:
    whole = edited(bundle, lambda _: None, "model.int8.onnx")
    accept_bundle(whole)
    with pytest.raises(BundleCorruptError, match=r"model\.int8\.onnx fails on test pictures"):
        accept_bundle(edited(whole, through("probabilities", "Mul", np.nan), "model.int8.onnx"))


def table(rows: int = 2, embedding: int = 8, genres: int = 4, **columns: Any) -> bytes:
    content = {
        "id": pa.array([f"tt{row}" for row in range(rows)]),
        "genres": pa.array([["Drama"]] * rows, pa.list_(pa.string())),
        "probabilities": pa.array([[0.5] * genres] * rows, pa.list_(pa.float32())),
        "embedding": pa.array([[0.5] * embedding] * rows, pa.list_(pa.float32())),
        **columns,
    }
    sink = io.BytesIO()
    parquet.write_table(pa.table({name: column for name, column in content.items() if column is not None}), sink)
    return sink.getvalue()


NO_PARQUET = {"empty": b"", "garbage": b"garbage" * 100, "ends only": b"PAR1PAR1", "cut off": table()[:-20]}


@pytest.mark.parametrize("reference", NO_PARQUET.values(), ids=NO_PARQUET.keys())
@pytest.mark.parametrize("installed", [True, False])
def test_a_reference_that_is_no_parquet_is_refused_with_and_without_pyarrow(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, reference: bytes, installed: bool
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BundleCorruptError, match=r"reference\.parquet is no Parquet file"):
        accept(Predictor(with_file(bundle, "reference.parquet", reference)))


@pytest.mark.parametrize(
    ("reference", "fault"),
    [
        (b"PAR1" + b"\0" * 100 + (50).to_bytes(4, "little") + b"PAR1", "cannot be read"),
        (table(rows=0), "does not hold 4 numbers of `probabilities` for each poster"),
        (table(genres=3), "does not hold 4 numbers of `probabilities`"),
        (table(embedding=9), "does not hold 8 numbers of `embedding`"),
        (table(probabilities=pa.array([[0.5, np.nan, 0.5, 0.5]] * 2)), "does not hold 4 numbers of `probabilities`"),
        (table(id=None), "lacks a column"),
        (table(probabilities=None), "cannot be read"),
        (table(probabilities=pa.array(["a", "b"])), "cannot be read"),
    ],
)
def test_a_reference_that_cannot_be_compared_with_is_refused(bundle: Bundle, reference: bytes, fault: str) -> None:
    with pytest.raises(BundleCorruptError, match=rf"reference\.parquet.*{fault}"):
        accept(Predictor(with_file(bundle, "reference.parquet", reference)))


def test_what_is_not_looked_into_without_pyarrow(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    accept(Predictor(with_file(bundle, "reference.parquet", table(rows=0))))


def test_the_starter_is_accepted() -> None:
    accept_bundle(load_bundle())


def test_nonsense_on_one_picture_is_an_error_with_a_reason(bundle: Bundle, make_poster: Callable[..., bytes]) -> None:
    predictor = Predictor(edited(bundle, undefined_for_dark_pictures))
    assert predictor.predict(make_poster("white"))
    with pytest.raises(ModelError, match="embedding with values that are not finite"):
        predictor.predict(make_poster("black"))


def test_a_predictor_that_is_stopped_ends_what_is_under_way(bundle: Bundle, make_poster: Callable[..., bytes]) -> None:
    predictor = Predictor(bundle)
    predictor.stop()
    with pytest.raises(ModelError):
        predictor.predict(make_poster())
