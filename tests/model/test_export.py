"""A bundle says what the checkpoint says, wherever it is asked."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import httpx
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch

from onesheet import load_predictor
from onesheet.bundle import load_bundle
from onesheet.data.manifest import read_manifest
from onesheet.errors import BundleError, DataError, ExportError, ParityError
from onesheet.evaluation.evaluate import evaluate, reference_ids, split_ids
from onesheet.export.export import export
from onesheet.export.graph import BundleGraph
from onesheet.export.parity import check_parity
from onesheet.image import load_picture
from onesheet.image_statistics import image_statistics
from onesheet.serving import create_app
from onesheet.settings import Settings
from onesheet.training.checkpoint import load_checkpoint
from tests.processes import run_command

PROJECT = Path(__file__).parents[2]
TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def manifest(processed, made_up_posters):
    return read_manifest(processed / "manifest.parquet", made_up_posters)


@pytest.fixture(scope="session")
def paths(manifest):
    """Test posters."""
    return [manifest.picture(entry) for entry in manifest.split("test").entries][:12]


@pytest.fixture(scope="session")
def expected(checkpoint, learned_bundle, paths):
    """Probabilities of the torch checkpoint, with the bundle's calibration: float32 [N, G]."""
    metadata = load_bundle(learned_bundle).metadata
    graph = BundleGraph(load_checkpoint(checkpoint).network, metadata.calibration).eval()
    pixels = np.stack([load_picture(path, metadata.preprocess).pixels for path in paths])
    with torch.inference_mode():
        return graph(torch.from_numpy(pixels))[0].numpy()


def _by_label(answer: dict, genres: tuple[str, ...]) -> list[float]:
    scores = {score["label"]: score["probability"] for score in answer["topk"]}
    return [scores[genre] for genre in genres]


def test_python_api_says_what_the_checkpoint_says(learned_bundle, paths, expected):
    predictions = load_predictor(learned_bundle).predict(paths)
    assert np.abs(np.stack([p.probabilities for p in predictions]) - expected).max() <= TOLERANCE


def test_command_line_says_what_the_checkpoint_says(learned_bundle, paths, expected):
    command = [sys.executable, "-c", "from onesheet.cli import main; main()", "predict", *map(str, paths)]
    options = ["--bundle", str(learned_bundle), "--top-k", "4", "--json"]
    done = run_command([*command, *options], check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    genres = load_bundle(learned_bundle).metadata.genres
    assert [answer["file"] for answer in answers] == [str(path) for path in paths]
    assert np.abs(np.array([_by_label(answer, genres) for answer in answers]) - expected).max() <= TOLERANCE


@pytest.mark.anyio
async def test_http_says_what_the_checkpoint_says(learned_bundle, paths, expected):
    predictor = load_predictor(learned_bundle)
    app = create_app(Settings(_env_file=None), predictor)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        answers = [
            (await client.post("/predict", files={"file": path.read_bytes()})).raise_for_status().json()
            for path in paths
        ]
    found = np.array([_by_label(answer, predictor.genres) for answer in answers])
    assert np.abs(found - expected).max() <= TOLERANCE


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_the_archive_is_the_same_bundle(learned_bundle):
    assert load_bundle(learned_bundle.with_name("learned.tar.gz")) == load_bundle(learned_bundle)


def test_the_graph_carries_its_own_normalisation_and_weights(learned_bundle):
    model = onnx.load_from_string(load_bundle(learned_bundle).model)
    (image,) = model.graph.input
    assert image.name == "images"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert image.type.tensor_type.shape.dim[0].dim_param
    assert [output.name for output in model.graph.output] == ["probabilities", "embedding"]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)


def test_a_bundle_tells_nothing_of_the_machine_it_was_made_on(learned_bundle, made_up_posters):
    for name, content in load_bundle(learned_bundle).files.items():
        for place in (sys.prefix, str(PROJECT), str(made_up_posters)):
            assert place.encode() not in content, name


def test_the_reference_is_the_validation_set_as_production_will_see_it(learned_bundle, manifest):
    bundle = load_bundle(learned_bundle)
    rows = pq.read_table(io.BytesIO(bundle.files["reference.parquet"])).to_pylist()
    entries = manifest.split("validation").entries
    assert [row["id"] for row in rows] == [entry.id for entry in entries]
    predictor = load_predictor(learned_bundle)
    row, path = rows[0], manifest.picture(entries[0])
    prediction = predictor.predict(path)
    assert np.allclose(row["probabilities"], prediction.probabilities, atol=1e-6)
    assert np.allclose(row["embedding"], prediction.embedding, rtol=1e-2, atol=1e-3)
    assert image_statistics([predictor.read(path)])[0] == pytest.approx({k: row[k] for k in row if k in _statistics()})


def _statistics() -> set[str]:
    names = "mean std min max brightness contrast colourfulness sharpness width height aspect"
    return set(names.split())


def test_thresholds_and_calibration_know_nothing_of_the_test_posters(checkpoint, learned_bundle, tmp_path, monkeypatch):
    """Export again with the test posters' genres turned round: only the test figures change."""
    original = read_manifest

    def turned(path, root):
        manifest = original(path, root)
        entries = [entry if entry.split != "test" else _turn(entry, manifest.genres) for entry in manifest.entries]
        changed = type(manifest)(tuple(entries), manifest.genres, manifest.seed, manifest.root)
        changed.__dict__["fingerprint"] = manifest.fingerprint
        return changed

    monkeypatch.setattr("onesheet.export.export.read_manifest", turned)
    again = export(checkpoint, tmp_path / "again", min_speedup=np.inf).metadata
    first = load_bundle(learned_bundle).metadata
    assert again.thresholds == first.thresholds
    assert again.calibration == first.calibration
    assert again.metrics["validation"] == first.metrics["validation"]
    assert again.metrics["test"]["f1_micro"] < first.metrics["test"]["f1_micro"] - 0.3


def _turn(entry, genres):
    import dataclasses

    return dataclasses.replace(entry, genres=tuple(genre for genre in genres if genre not in entry.genres))


def test_the_model_card_is_honest(learned_bundle):
    bundle = load_bundle(learned_bundle)
    card = bundle.files["MODEL_CARD.md"].decode()
    test = bundle.metadata.metrics["test"]
    assert f"| mean average precision (macro) | {test['map_macro']:.3f} |" in card
    assert f"On the {test['n']} test posters" in card
    assert "training frequencies" in card
    for genre in bundle.metadata.genres:
        assert f"| {genre} |" in card


def test_parity_gate_refuses_another_model(checkpoint, learned_bundle, manifest):
    bundle = load_bundle(learned_bundle)
    pixels = np.stack(
        [load_picture(manifest.picture(entry), bundle.metadata.preprocess).pixels for entry in manifest.entries[:64]]
    )
    graph = BundleGraph(load_checkpoint(checkpoint).network, bundle.metadata.calibration).eval()
    assert check_parity(graph, bundle.model, pixels) <= TOLERANCE
    with torch.no_grad():
        graph.network.head.bias[0] += 0.01
    with pytest.raises(ParityError, match="differ by"):
        check_parity(graph, bundle.model, pixels)
    with pytest.raises(ExportError, match="needs 64 posters, got 63"):
        check_parity(graph, bundle.model, pixels[:63])


def test_when_parity_fails_nothing_is_written(checkpoint, tmp_path, monkeypatch):
    def refuse(*_):
        raise ParityError("differ")

    monkeypatch.setattr("onesheet.export.export.check_parity", refuse)
    with pytest.raises(ParityError):
        export(checkpoint, tmp_path / "out", min_speedup=np.inf)
    assert list(tmp_path.iterdir()) == []


def test_other_posters_than_those_of_training_are_refused(checkpoint, made_up_posters, tmp_path):
    from onesheet.data.prepare import prepare

    prepare(made_up_posters, tmp_path, seed=7)
    with pytest.raises(ExportError, match="not the one that this checkpoint was trained with"):
        export(checkpoint, tmp_path / "out", processed=tmp_path)


def test_posters_that_were_moved_since_training_are_asked_for(checkpoint, made_up_posters, processed, tmp_path):
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    content["provenance"]["data"] = {"raw": str(tmp_path / "old" / "raw"), "processed": str(processed)}
    torch.save(content, tmp_path / "moved.ckpt")
    with pytest.raises(ExportError, match=r"old/raw, where this checkpoint was trained, is not there: say --raw DIR"):
        export(tmp_path / "moved.ckpt", tmp_path / "out", name="moved", version="1")
    moved = export(tmp_path / "moved.ckpt", tmp_path / "out", name="moved", version="1", raw=made_up_posters)
    assert moved.metadata.name == "moved"


def test_the_int8_graph_says_nearly_the_same(learned_bundle, paths, expected):
    bundle = load_bundle(learned_bundle)
    assert len(bundle.graph("int8")) < 0.35 * len(bundle.graph("fp32"))
    predictions = load_predictor(learned_bundle, precision="int8").predict(paths)
    found = np.stack([prediction.probabilities for prediction in predictions])
    assert 0 < np.abs(found - expected).max() < 0.2
    assert ((found > 0.5) == (expected > 0.5)).mean() > 0.95


def test_what_int8_saves_and_costs_is_written_down(learned_bundle, made_up_posters, processed):
    bundle = load_bundle(learned_bundle)
    saving = bundle.metadata.metrics["int8"]
    assert saving["left_out"] is None
    assert saving["speedup"] > 0
    only, labels = split_ids(processed, "test"), made_up_posters / "train.csv"
    evaluation = evaluate(bundle, labels, made_up_posters / "Images", only=only, precision="int8")
    assert evaluation.metrics["f1_micro"] == pytest.approx(saving["test"]["f1_micro"], abs=1e-5)
    assert "## In 8-bit integers" in bundle.files["MODEL_CARD.md"].decode()


def test_an_int8_graph_that_does_not_pay_is_left_out_with_the_reason(checkpoint, tmp_path):
    bundle = export(checkpoint, tmp_path / "out", min_speedup=1000)
    saving = bundle.metadata.metrics["int8"]
    assert saving["left_out"].endswith("times as fast, 1000 are asked for")
    assert set(bundle.files) == {"model.onnx", "reference.parquet", "MODEL_CARD.md"}
    assert "8-bit" not in bundle.files["MODEL_CARD.md"].decode()
    with pytest.raises(BundleError, match=r"holds no model\.int8\.onnx"):
        load_predictor(tmp_path / "out", precision="int8")


def test_an_int8_graph_that_costs_too_much_is_left_out_with_the_reason(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("onesheet.export.export.MAX_LOSS", -1)
    bundle = export(checkpoint, tmp_path / "out", min_speedup=0)
    assert "mAP falls by" in bundle.metadata.metrics["int8"]["left_out"]


def test_thresholds_can_aim_at_precision(checkpoint, learned_bundle, tmp_path):
    precise = export(checkpoint, tmp_path / "out", min_precision=0.99, min_speedup=np.inf).metadata
    assert precise.threshold_aim == "precision of at least 0.99"
    assert "precision of at least 0.99" in (tmp_path / "out/MODEL_CARD.md").read_text()
    usual = load_bundle(learned_bundle).metadata
    assert usual.threshold_aim == "macro-F1"
    assert sum(precise.thresholds.values()) > sum(usual.thresholds.values())


def test_evaluate_agrees_with_the_bundle_on_the_test_split(learned_bundle, made_up_posters, processed):
    bundle = load_bundle(learned_bundle)
    evaluation = evaluate(
        bundle, made_up_posters / "train.csv", made_up_posters / "Images", only=split_ids(processed, "test")
    )
    recorded = bundle.metadata.metrics["test"]
    found = evaluation.to_dict()
    for name in ("n", "f1_macro", "f1_micro", "f1_samples", "map_macro", "auroc_macro", "ece", "hamming_loss"):
        assert found[name] == pytest.approx(recorded[name], abs=1e-5), name
    assert found["seen_at_export"] == 0
    assert found["f1_macro"] > found["baselines"]["training_frequencies"]["f1_macro"] + 0.2


def test_evaluate_on_posters_that_chose_the_thresholds_says_so(learned_bundle, made_up_posters):
    bundle = load_bundle(learned_bundle)
    steps = []
    evaluation = evaluate(
        bundle,
        made_up_posters / "train.csv",
        made_up_posters / "Images",
        on_poster=lambda done, total: steps.append((done, total)),
    )
    assert evaluation.metrics["n"] == 240
    assert evaluation.seen == len(reference_ids(bundle)) > 0
    assert steps[-1] == (240, 240)


def test_evaluate_names_unknown_ids_and_scores_the_others(learned_bundle, made_up_posters, tmp_path):
    rows = (made_up_posters / "train.csv").read_text().splitlines()
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join([*rows[:11], "tt404,['Drama'],0,1,0,0,0", "tt405,['N/A'],0,0,0,0,1"]) + "\n")
    evaluation = evaluate(load_bundle(learned_bundle), labels, made_up_posters / "Images")
    assert evaluation.metrics["n"] == 10
    assert evaluation.unlabelled == 1
    (failure,) = evaluation.to_dict()["failed"]
    assert failure["file"].endswith("tt404.jpg")
    assert failure["error"]["code"] == "not_found"


def test_evaluate_refuses_labels_without_the_bundles_genres(learned_bundle, made_up_posters, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("Id,Drama,Western\ntt0000001,1,0\n")
    with pytest.raises(DataError, match="no column for Comedy, Horror, Romance"):
        evaluate(load_bundle(learned_bundle), labels, made_up_posters / "Images")


def test_evaluate_without_any_readable_poster(learned_bundle, made_up_posters, tmp_path):
    bundle, labels = load_bundle(learned_bundle), made_up_posters / "train.csv"
    with pytest.raises(DataError, match="240 of 240 labelled films have no poster in"):
        evaluate(bundle, labels, tmp_path)
    for number in range(240):
        (tmp_path / f"tt{number:07d}.png").touch()
    with pytest.raises(DataError, match="none of the 240 posters can be scored: the file is empty"):
        evaluate(bundle, labels, tmp_path)


def test_an_unknown_split(processed):
    with pytest.raises(DataError, match="train, validation, test"):
        split_ids(processed, "holdout")


def test_a_network_that_cannot_be_quantized_is_exported_without(monkeypatch, checkpoint, tmp_path):
    def refuse(*_):
        raise AssertionError  # as ONNX Runtime does, without a word

    monkeypatch.setattr("onesheet.export.quantize.quant_pre_process", refuse)
    bundle = export(checkpoint, tmp_path / "bundle")
    assert "model.int8.onnx" not in bundle.files
    assert bundle.metadata.metrics["int8"] == {"left_out": "this network cannot be quantized: AssertionError"}
