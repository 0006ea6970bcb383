"""Who becomes the champion: better ones do, others are told why not, and it can be undone."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from onesheet import cli
from onesheet.bundle import load_bundle, write_bundle
from onesheet.configs import default_config_dir, read_config
from onesheet.data.manifest import read_manifest
from onesheet.data.prepare import prepare
from onesheet.errors import ConfigError, DataError, MovedMeanwhileError, PromotionRefusedError, RegistryError
from onesheet.evaluation.bootstrap import Resampled
from onesheet.registry import open_registry
from onesheet.registry.comparison import Comparison, Contender, Measured, unseen
from onesheet.registry.gates import Limits, judge
from onesheet.registry.lineage import submission
from onesheet.registry.promotion import decide, promote
from onesheet.settings import Settings
from onesheet.training.record import new_record, write_record

GENRES = ("Comedy", "Drama", "Horror", "Romance")


@pytest.fixture(scope="module")
def manifest(made_up_posters, tmp_path_factory):
    return prepare(made_up_posters, tmp_path_factory.mktemp("processed"))


@pytest.fixture(scope="module")
def processed(manifest, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("again")
    prepare(manifest.root, folder)
    return folder


@pytest.fixture(scope="module")
def bundles(manifest, make_bundle) -> dict[str, Path]:
    return {name: make_bundle(manifest, f"1.{skill}", skill) for name, skill in (("poor", 0.15), ("good", 1.0))}


@pytest.fixture(scope="module")
def limits(tmp_path_factory):
    """The shipped ones, for the few posters that there are here."""
    shipped = yaml.safe_load((default_config_dir() / "gates.yaml").read_text())
    file = tmp_path_factory.mktemp("limits") / "gates.yaml"
    # These networks take microseconds, of which noise is a large part.
    file.write_text(yaml.safe_dump(shipped | {"min_posters": 20, "max_ece": 0.4, "max_latency_ratio": 1_000_000}))
    return file


@contextmanager
def quiet(_description):
    yield lambda _done, _total: None


@pytest.fixture
def registry(tmp_path):
    return open_registry(
        Settings(registry_url=f"sqlite:///{tmp_path}/registry.db", registry_artifacts=str(tmp_path / "artifacts"))
    )


@pytest.fixture
def register(registry, manifest, processed):
    def registered(bundle: Path, run: Path | None = None):
        with submission(str(bundle), run, processed, manifest.root) as submitted:
            return registry.register(submitted.folder, submitted.lineage)

    return registered


@pytest.fixture
def judged(registry, manifest, processed, limits):
    def decided(ref, **options):
        return decide(registry, str(ref), manifest.root, processed, read_config(limits, Limits), quiet, **options)

    return decided


def test_the_better_one_is_promoted_the_worse_one_is_refused_and_a_promotion_is_undone(
    registry, register, judged, bundles
):
    poor, good = register(bundles["poor"]), register(bundles["good"])

    assert promote(registry, judged(poor.number)).before is None  # better than never looking at a poster
    decision = judged(good.number)
    assert decision.passes
    assert "passed 12 gates" in promote(registry, decision).reason
    assert registry.aliases() == {"champion": good.number}

    refused = judged(poor.number)
    failed = r"version 1 .* does not pass: better: mAP, calibration, answers: F1 macro"
    with pytest.raises(PromotionRefusedError, match=failed):
        promote(registry, refused)
    assert registry.aliases() == {"champion": good.number}
    with pytest.raises(RegistryError, match="is the champion already"):
        judged(good.number)

    former = registry.former_champion()
    registry.move(registry.standing("champion"), former, "rollback", "so")
    assert former == poor
    assert registry.aliases() == {"champion": poor.number}
    assert [each.kind for each in registry.history()] == ["promote", "promote", "rollback"]


def test_who_decided_on_a_champion_that_is_no_more_is_told(registry, register, judged, bundles):
    first, second = register(bundles["poor"]), register(bundles["good"])
    early = judged(second.number)
    promote(registry, judged(first.number))
    with pytest.raises(MovedMeanwhileError, match="moved the champion from version None to 1 meanwhile"):
        promote(registry, early)
    assert registry.aliases() == {"champion": first.number}


def test_lineage_tells_run_data_and_manifest(registry, register, manifest, bundles, tmp_path, processed):
    run = tmp_path / "run"
    run.mkdir()
    record = new_record(1, manifest.fingerprint)
    record.loggers["mlflow"] = "abc123"
    write_record(record, run)
    raw = tmp_path / "raw"
    shutil.copytree(manifest.root, raw)
    raw.with_name("raw.dvc").write_text("outs:\n- md5: 0123456789abcdef.dir\n  path: raw\n")

    version = register(bundles["good"], run)
    with submission(str(bundles["good"]), run, processed, raw) as submitted:
        assert submitted.lineage.data_version == "0123456789abcdef.dir"
        assert submitted.notes == ()
    assert (version.lineage.run, version.lineage.data_version) == ("mlflow:abc123", None)
    assert version.lineage.metrics["map_macro"] > 0.9
    kept = registry.fetch_manifest(version, tmp_path / "kept")
    assert kept is not None
    assert read_manifest(kept, tmp_path).fingerprint == manifest.fingerprint


def test_posters_that_one_of_the_two_was_trained_on_decide_nothing(
    registry, register, judged, manifest, bundles, make_bundle, tmp_path
):
    """Another split: what are test posters now, the other one has been trained on."""
    prepare(manifest.root, tmp_path / "other", seed=7)
    other = read_manifest(tmp_path / "other" / "manifest.parquet", manifest.root)
    with submission(str(make_bundle(other, "7")), None, tmp_path / "other", manifest.root) as submitted:
        stranger = registry.register(submitted.folder, submitted.lineage)
    promote(registry, judged(register(bundles["poor"]).number))
    decision = judged(stranger.number)

    test = {entry.id for entry in manifest.split("test").entries}
    unknown = test & {entry.id for entry in other.split("test").entries}
    assert 0 < len(unknown) < len(test)
    assert decision.comparison.posters == len(unknown)
    assert decision.comparison.seen == len(test) - len(unknown)
    refused = {gate.name for gate in decision.gates if not gate.passed}
    assert "posters that neither has seen" in refused


def test_a_near_identical_picture_counts_as_seen(manifest, bundles):
    poster = manifest.split("test").entries[0]
    twin = replace(manifest.split("train").entries[0], id="other", phash=f"{int(poster.phash, 16) ^ 0b111:016x}")
    side = Contender("one", load_bundle(bundles["good"]), replace(manifest, entries=(twin,)))
    assert poster not in unseen(manifest.split("test").entries, [side])
    assert poster in unseen(manifest.split("test").entries, [replace(side, trained_on=None)])


def test_without_posters_nobody_is_compared(registry, register, judged, bundles, manifest, processed, limits):
    version = register(bundles["good"])
    with pytest.raises(DataError, match="no manifest"):
        decide(registry, str(version.number), manifest.root, processed / "no", read_config(limits, Limits), quiet)


# ----------------------------------------------------------------------------------------------- gate by gate


def worth(bundle, *, shift=0.0, **changes) -> Measured:
    """A contender on made-up numbers."""
    random = np.random.default_rng(0)
    mean_ap = 0.3 + shift + 0.01 * random.standard_normal(500)
    of_genre = 0.3 + shift + 0.02 * random.standard_normal((500, len(GENRES)))
    genre = {"positives": 50, "average_precision": 0.3 + shift}
    metrics = {"n": 500, "map_macro": 0.3 + shift, "f1_macro": 0.3, "f1_micro": 0.4, "ece": 0.01}
    values = {
        "metrics": metrics | {"per_genre": dict.fromkeys(GENRES, genre)},
        "resampled": Resampled({"map_macro": mean_ap}, of_genre, of_genre),
        "corrupted": (0.25 + shift, 0.3 + shift),
        "latency_ms": 4.0,
        "baseline": 0.1,
        "difference": 1e-6,
        "compared": 128,
    }
    return Measured(**(values | changes))


def comparison(bundle, challenger=None, champion=None, **changes) -> Comparison:
    side = Contender("one", bundle, None)
    values = {
        "posters": 500,
        "seen": 0,
        "genres": GENRES,
        "challenger": side,
        "champion": side,
        "challenger_worth": challenger or worth(bundle, shift=0.05),
        "champion_worth": champion or worth(bundle),
    }
    return Comparison(**(values | changes))


@pytest.fixture(scope="module")
def bundle(bundles):
    return load_bundle(bundles["good"])


@pytest.fixture(scope="module")
def shipped():
    return read_config(default_config_dir() / "gates.yaml", Limits)


def refusals(found: Comparison, limits) -> list[str]:
    return [gate.name for gate in judge(found, limits) if not gate.passed]


def test_a_better_one_passes_every_gate(bundle, shipped):
    assert refusals(comparison(bundle), shipped) == []
    assert refusals(comparison(bundle, champion=None), shipped) == []
    alone = replace(comparison(bundle), champion=None, champion_worth=None)
    assert refusals(alone, shipped) == []


def metrics_of(bundle, **changes):
    return worth(bundle, shift=0.05).metrics | changes


@pytest.mark.parametrize(
    ("spoil", "gate"),
    [
        (lambda b: comparison(b, posters=99), "posters that neither has seen"),
        (lambda b: comparison(b, worth(b, shift=0.0)), "better: mAP"),
        (lambda b: comparison(b, worth(b, shift=0.05, metrics=metrics_of(b, f1_macro=0.27))), "answers: F1 macro"),
        (lambda b: comparison(b, worth(b, shift=0.05, metrics=metrics_of(b, f1_micro=0.37))), "answers: F1 micro"),
        (lambda b: comparison(b, worth(b, shift=0.05, metrics=metrics_of(b, ece=0.021))), "calibration"),
        (lambda b: comparison(b, worth(b, shift=0.05, corrupted=(0.26, 0.35))), "robustness"),
        (lambda b: comparison(b, worth(b, shift=0.05, latency_ms=6.1)), "latency"),
        (lambda b: comparison(b, worth(b, shift=0.05, difference=0.02)), "parity here"),
        (lambda b: comparison(b, worth(b, shift=0.05, difference=None, compared=0)), "parity here"),
    ],
)
def test_each_gate_refuses_alone(bundle, shipped, spoil, gate):
    assert refusals(spoil(bundle), shipped) == [gate]


def test_noise_is_not_better(bundle, shipped):
    """A little higher on these posters, and lower on a tenth of the resamples."""
    noisy = worth(bundle, shift=0.0)
    drawn = noisy.resampled.metrics["map_macro"] + np.random.default_rng(1).normal(0.01, 0.008, 500)
    noisy = replace(noisy, resampled=replace(noisy.resampled, metrics={"map_macro": drawn}))
    assert 0.85 < np.mean(drawn > worth(bundle).resampled.metrics["map_macro"]) < 0.95
    assert refusals(comparison(bundle, noisy), shipped) == ["better: mAP"]


def test_a_genre_may_not_fall_but_chance_is_not_blamed(bundle, shipped):
    better = worth(bundle, shift=0.05)
    per_genre = better.metrics["per_genre"] | {"Horror": {"positives": 50, "average_precision": 0.15}}
    fallen = better.resampled.average_precision.copy()
    fallen[:, GENRES.index("Horror")] -= 0.2
    resampled = replace(better.resampled, average_precision=fallen)
    worse = replace(better, metrics=better.metrics | {"per_genre": per_genre}, resampled=resampled)
    (gate,) = (each for each in judge(comparison(bundle, worse), shipped) if not each.passed)
    assert (gate.name, gate.challenger) == ("no genre falls", "Horror 0.300 to 0.150")

    unsure = fallen + np.random.default_rng(2).normal(0, 0.2, fallen.shape)
    chance = replace(worse, resampled=replace(resampled, average_precision=unsure))
    assert refusals(comparison(bundle, chance), shipped) == []
    few = worse.metrics | {"per_genre": per_genre | {"Horror": {"positives": 19, "average_precision": 0.15}}}
    assert refusals(comparison(bundle, replace(worse, metrics=few)), shipped) == []


def test_a_genre_may_not_be_forgotten(bundle, shipped):
    (gate,) = (each for each in judge(comparison(bundle, genres=GENRES[:3]), shipped) if not each.passed)
    assert (gate.name, gate.challenger) == ("genres", "lacks Romance")


def test_size_and_parity_at_export_are_those_of_the_bundle(bundle, shipped, tmp_path):
    metadata = bundle.metadata.model_dump(exclude={"schema_version", "files"})
    files = dict(bundle.files)
    large = write_bundle(metadata, files | {"model.onnx": files["model.onnx"] * 2}, tmp_path / "large")
    metadata["metrics"] = {}
    unknown = write_bundle(metadata, files, tmp_path / "unknown")
    for candidate, gate in ((large, "size of model.onnx"), (unknown, "parity at export")):
        found = replace(comparison(bundle), challenger=Contender("one", candidate, None))
        assert refusals(found, shipped) == [gate]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("min_posters: 5", "Field required"),
        ("[", "cannot be read"),
        ("- 1", "Input should be"),
        (None, "cannot be read"),
    ],
)
def test_limits_that_are_none_are_refused(tmp_path, text, said):
    file = tmp_path / "gates.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_config(file, Limits)


# ------------------------------------------------------------------------------------------------ the commands


def test_promote_and_compare_as_commands(
    registry, register, bundles, manifest, processed, limits, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("ONESHEET_REGISTRY_URL", f"sqlite:///{tmp_path}/registry.db")

    def run(*arguments: str) -> tuple[int, str, str]:
        data = ("--raw", str(manifest.root), "--processed", str(processed), "--gates", str(limits))
        monkeypatch.setattr(sys, "argv", ["onesheet", "registry", *arguments, *data])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    for name in ("good", "poor"):
        register(bundles[name])
    code, out, _ = run("promote", "1")
    assert code == 0
    assert "version 1 (corners 1.1.0) is the champion now" in out
    assert "nobody: there is no champion yet" in out

    code, out, err = run("promote", "2")
    assert code == 1
    assert "refused" in out
    assert "version 2 (corners 1.0.15) stays what it is; it does not pass: better: mAP" in err

    code, out, _ = run("compare", "2", "1", "--json")
    found = json.loads(out)
    assert (code, found["version"], found["champion"], found["passes"]) == (0, 2, 1, False)
    assert {gate["name"] for gate in found["gates"]} >= {"better: mAP", "calibration", "robustness", "parity here"}
    assert run("compare", "1", "1")[2].strip().endswith("both are version 1 (corners 1.1.0)")
