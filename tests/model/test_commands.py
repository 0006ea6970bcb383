"""The commands of an ML engineer: what they print, and how they fail."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from onesheet.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`run("evaluate", …)` in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["onesheet", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return exit_.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def evaluated(learned_bundle: Path, made_up_posters: Path) -> tuple[object, ...]:
    """Arguments that evaluate the learned bundle on all made-up posters."""
    images = made_up_posters / "Images"
    return ("evaluate", "--labels", made_up_posters / "train.csv", "--images", images, "--bundle", learned_bundle)


def test_evaluate_as_json(run: Run, evaluated, processed):
    code, out, err = run(*evaluated, "--split", "test", "--processed", processed, "--json")
    answer = json.loads(out)
    assert (code, err) == (0, "")
    contract = "n hamming_loss exact_match f1_macro f1_micro f1_samples map_macro auroc_macro ece per_genre"
    assert set(contract.split()) <= set(answer)
    assert answer["per_genre"]["Comedy"]["n"] == answer["n"]


def test_evaluate_for_people_shows_floors_support_and_a_warning(run: Run, evaluated):
    code, out, err = run(*evaluated)
    assert code == 0
    for text in ("learned 1 on 240 posters", "training frequencies", "every genre", "map_macro", "Horror"):
        assert text in out
    assert "these figures flatter the model" in err


def test_evaluate_with_an_unknown_id_answers_the_rest_and_exits_1(run: Run, evaluated, made_up_posters, tmp_path):
    rows = (made_up_posters / "train.csv").read_text().splitlines()[:30]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join([*rows, "tt404,['Drama'],0,1,0,0,0"]) + "\n")
    code, out, err = run(*evaluated[:2], labels, *evaluated[3:], "--json")
    assert code == 1
    assert json.loads(out)["n"] == 29
    assert "tt404.jpg: no such file" in err


def test_evaluate_does_not_pass_with_a_few_of_many_posters(run: Run, evaluated, made_up_posters, tmp_path):
    (tmp_path / "Images").mkdir()
    for number, suffix in enumerate((".jpeg", ".JPG", ".png", ".webp")):
        film = f"tt{number:07d}"
        (tmp_path / "Images" / f"{film}{suffix}").symlink_to(made_up_posters / "Images" / f"{film}.jpg")
    command = (*evaluated[:4], tmp_path / "Images", *evaluated[5:], "--json")
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert "236 of 240 labelled films have no poster in" in err
    assert "(tt0000004, tt0000005, tt0000006 and 233 more)" in err
    code, out, err = run(*command, "--allow-missing")
    assert (code, json.loads(out)["n"], json.loads(out)["missing"]) == (0, 4, 236)
    assert "236 labelled films have no poster and are left out" in err


@pytest.mark.parametrize(
    ("text", "reason"), [("Id,Drama\ntt1,1\n", "has no column for Comedy"), ("a,b\n1,2\n", "no column `Id`")]
)
def test_evaluate_with_missing_columns_is_one_line_and_exit_1(run: Run, evaluated, tmp_path, text, reason):
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    code, out, err = run(*evaluated[:2], labels, *evaluated[3:])
    assert (code, out) == (1, "")
    assert reason in err
    assert err.count("\n") == 1


def test_evaluate_without_arguments_is_wrong_usage(run: Run):
    assert run("evaluate")[0] == 2


def test_train_says_before_it_begins_that_export_will_refuse(run: Run, smallest, made_up_posters, tmp_path):
    rows = (made_up_posters / "train.csv").read_text().splitlines()[:41]
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "Images").symlink_to(made_up_posters / "Images")
    assert run("data", "prepare", "--raw", tmp_path, "--out", tmp_path / "processed")[0] == 0
    places = (f"data.raw={tmp_path}", f"data.processed={tmp_path / 'processed'}", f"run_dir={tmp_path / 'run'}")
    code, _, err = run("train", *smallest, *places, "logger=csv", "logger.pictures_every=0", "trainer.epochs=1")
    told = "the comparison of torch and ONNX needs 64 readable posters of any split, the manifest has 40"
    assert code == 0
    assert f"note: `onesheet export` will refuse this model: {told}" in err
    code, _, err = run("export", tmp_path / "run/best.ckpt", "--out", tmp_path / "bundle")
    assert (code, err) == (1, f"onesheet: {told}: prepare more posters and train again\n")


def test_train_shows_its_knobs(run: Run):
    code, out, _ = run("train", "--show", "optimizer.lr=0.5", "run_dir=here")
    assert code == 0
    assert "lr: 0.5" in out
    assert "run_dir: here" in out


def test_train_takes_a_whole_configuration_from_one_place(run: Run, tmp_path):
    (tmp_path / "params.yaml").write_text(run("train", "--show", "experiment=smoke")[1])
    code, out, _ = run("train", "--show", "--config", "params.yaml", "trainer.epochs=3")
    assert code == 0
    assert "name: smoke" in out
    assert "epochs: 3" in out
    code, _, err = run("train", "--config", "params.yaml", "--from-run", tmp_path)
    assert (code, err) == (2, "onesheet: --from-run or --config: each is the whole configuration\n")


def test_train_with_an_unknown_knob_is_wrong_usage(run: Run):
    assert run("train", "optimizer.lrr=0.5") == (
        2,
        "",
        "onesheet: unknown key `optimizer.lrr`; did you mean `optimizer.lr`?\n",
    )


def test_export_prints_quality_and_the_next_command(run: Run, checkpoint, tmp_path):
    code, out, _ = run("export", checkpoint, "--out", tmp_path / "bundle", "--name", "mine", "--version", "7")
    assert code == 0
    assert "mine 7, on " in out
    assert f"onesheet predict POSTER --bundle {tmp_path / 'bundle'}" in out


def test_export_of_no_checkpoint(run: Run, tmp_path):
    code, out, err = run("export", tmp_path / "x.ckpt", "--out", tmp_path / "bundle")
    assert (code, out) == (1, "")
    assert "no checkpoint at" in err


def test_from_raw_to_figures(run: Run, made_up_posters, tmp_path):
    assert run("data", "fetch", made_up_posters)[1] == (
        f"data/raw: 241 files, {_megabytes(made_up_posters):.1f} MB, 240 labelled rows\n"
    )
    _, out, _ = run("data", "prepare", "--seed", "5")
    assert out.startswith("data/processed/manifest.parquet: 1")
    code, out, _ = run("data", "stats", "--out", "figures")
    assert code == 0
    assert "Horror" in out
    assert (tmp_path / "figures/co-occurrence.png").is_file()


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def test_prepare_lists_what_it_set_aside(run: Run, made_up_posters, tmp_path):
    raw = shutil.copytree(made_up_posters, tmp_path / "raw")
    (raw / "Images/tt0000003.jpg").write_bytes(b"broken")
    code, out, _ = run("data", "prepare", "--raw", raw)
    assert code == 0
    assert "quarantined Images/tt0000003.jpg: not_an_image: the file is not a JPEG" in out


@pytest.mark.parametrize("command", [("data", "prepare"), ("data", "stats"), ("train", "model.pretrained=false")])
def test_without_data_the_message_says_what_to_do(run: Run, command):
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert err.startswith("onesheet: no ")
    assert err.count("\n") == 1
