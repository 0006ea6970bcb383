"""The commands of somebody who only has posters: what they print, where, and how they end."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from onesheet import cli, console
from onesheet import predictor as predictor_module
from onesheet.bundle import load_bundle
from tests.processes import MAX_WAIT, run_command

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., subprocess.Popen[bytes]]

MEBIBYTE = 2**20


@pytest.fixture
def folder(make_poster: Callable[..., bytes], make_png: Callable[..., bytes], tmp_path: Path) -> Path:
    """Good and bad posters."""
    folder = tmp_path / "posters"
    (folder / "album").mkdir(parents=True)
    os.mkfifo(folder / "pipe.jpg")
    files = {
        "red.jpg": make_poster("red"),
        "blue.png": make_poster("blue", kind="PNG"),
        "empty.jpg": b"",
        "text.jpg": b"I am a text.",
        "cut.jpg": make_poster()[:400],
        "cut.png": make_poster(kind="PNG")[:60],
        "bomb.png": make_png(60_000, 60_000),
        "large.png": make_png(10_000, 10_000),  # Pillow warns of this one
        "dot.png": make_poster(size=(1, 1), kind="PNG"),
        "banner.jpg": make_poster(size=(1000, 50)),
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "scan.tif": b"II*\0\x08\0\0\0",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


BAD = {
    "missing.jpg": ("not_found", "no such file"),
    "album": ("not_a_file", "is a folder; name a picture file"),
    "pipe.jpg": ("not_a_file", "is a special file; name a picture file"),
    "x" * 300: ("unreadable_file", "cannot be read: File name too long"),
    "empty.jpg": ("empty_image", "the file is empty"),
    "text.jpg": ("not_an_image", "the file is not a JPEG, PNG, WebP or GIF picture"),
    "cut.jpg": ("corrupt_image", "the image is truncated or damaged"),
    "cut.png": ("corrupt_image", "the image is truncated or damaged"),
    "bomb.png": ("image_too_large", "at most 25 megapixels are read"),
    "large.png": ("image_too_large", "10000x10000 pixels: at most 25 megapixels are read"),
    "dot.png": ("not_poster_shaped", "1x1 pixels: a poster has at least 16 a side"),
    "banner.jpg": (
        "not_poster_shaped",
        "1000x50 pixels: a poster's long side is at most 8 times its short one",
    ),
    "photo.heic": ("unsupported_format", "HEIC is not supported; convert the picture to JPEG, PNG, WebP or GIF"),
    "scan.tif": ("unsupported_format", "TIFF is not supported; convert the picture to JPEG, PNG, WebP or GIF"),
}


# ------------------------------------------------------------------------------------------------- predict


def test_the_genres_of_posters_for_people(onesheet: Callable[..., Any], folder: Path) -> None:
    outcome = onesheet("predict", folder / "red.jpg", folder / "blue.png")

    assert outcome.code == 0
    assert outcome.err == ""
    red, blue = outcome.out.splitlines()
    assert red.startswith(f"{folder}/red.jpg: Romance ")
    assert blue.startswith(f"{folder}/blue.png: Drama ")
    assert red.endswith("%")


def test_the_genres_of_posters_for_programs(
    onesheet: Callable[..., Any], folder: Path, predictor: predictor_module.Predictor
) -> None:
    outcome = onesheet("predict", folder / "red.jpg", folder / "blue.png", "--json")

    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.lines == [
        {"file": f"{folder}/{name}", **predictor.predict(folder / name).to_dict()} for name in ("red.jpg", "blue.png")
    ]
    assert list(outcome.lines[0]) == ["file", "predicted", "topk", "model"]


def test_a_poster_that_reaches_no_threshold(onesheet: Callable[..., Any], folder: Path) -> None:
    outcome = onesheet("predict", folder / "red.jpg", "--threshold", 1)

    assert outcome.code == 0
    assert "red.jpg: no genre reaches its threshold; nearest is Romance " in outcome.out


def test_threshold_and_top_k(onesheet: Callable[..., Any], folder: Path) -> None:
    (line,) = onesheet("predict", folder / "red.jpg", "--json", "--threshold", 0, "--top-k", 2).lines

    assert len(line["predicted"]) == 4
    assert len(line["topk"]) == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--threshold", value) for value in ("nan", "inf", "1.5", "-1")),
        *(("--top-k", value) for value in ("0", "5", "-1")),
    ],
)
def test_an_option_out_of_range_is_wrong_usage(
    onesheet: Callable[..., Any], folder: Path, option: str, value: str
) -> None:
    outcome = onesheet("predict", folder / "red.jpg", option, value)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"onesheet: {option.strip('-').replace('-', '_')} must be between ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["predict"], ["predict", "--no-such-option"], ["predict", "a.jpg", "--threshold", "high"], ["nonsense"]],
)
def test_wrong_usage_is_explained(onesheet: Callable[..., Any], arguments: list[str]) -> None:
    outcome = onesheet(*arguments)

    assert (outcome.code, outcome.out) == (2, "")
    assert "Usage: onesheet" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_and_the_others_are_answered(
    onesheet: Callable[..., Any], folder: Path, name: str
) -> None:
    _, message = BAD[name]

    outcome = onesheet("predict", folder / "red.jpg", folder / name, folder / "blue.png")

    assert outcome.code == 1
    assert outcome.err == f"onesheet: {folder}/{name}: {message}\n"
    assert [line.split(": ")[0] for line in outcome.out.splitlines()] == [f"{folder}/red.jpg", f"{folder}/blue.png"]


def test_bad_files_for_programs(onesheet: Callable[..., Any], folder: Path) -> None:
    names = [*BAD, "red.jpg"]

    outcome = onesheet("predict", *(folder / name for name in names), "--json")

    assert (outcome.code, outcome.err) == (1, "")
    assert [line["file"] for line in outcome.lines] == [f"{folder}/{name}" for name in names]
    assert [line["error"] for line in outcome.lines[:-1]] == [
        {"code": code, "message": message} for code, message in BAD.values()
    ]
    assert outcome.lines[-1]["predicted"]


@pytest.mark.parametrize("name", ["new\nline.jpg", "\x1b[31mred.jpg", os.fsdecode(b"not-\xff-text.jpg")])
def test_a_name_cannot_play_with_the_terminal(onesheet: Callable[..., Any], folder: Path, name: str) -> None:
    for bad in (False, True):
        shutil.copy(folder / ("text.jpg" if bad else "red.jpg"), folder / name)
        outcome = onesheet("predict", folder / name)

        assert outcome.code == int(bad)
        shown = outcome.err if bad else outcome.out
        assert shown.count("\n") == 1
        assert shown.strip("\n").isprintable()
        (line,) = onesheet("predict", folder / name, "--json").lines
        assert line["file"] == str(folder / name)


def test_a_relative_name_is_shown_as_it_was_given(
    onesheet: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)

    assert onesheet("predict", "red.jpg").out.startswith("red.jpg: ")
    assert onesheet("predict", "--", "-dash.jpg").err == "onesheet: -dash.jpg: no such file\n"


# ------------------------------------------------------------------------------------- bundles and settings


def test_an_option_wins_over_the_environment(
    onesheet: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    monkeypatch.setenv("ONESHEET_BUNDLE", "nowhere")

    assert onesheet("predict", folder / "red.jpg").code == 1
    assert onesheet("predict", folder / "red.jpg", "--bundle", tiny_bundle).code == 0


def test_limits_come_from_the_settings(
    onesheet: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONESHEET_MAX_PIXELS", "5399")
    assert "60x90 pixels: at most 0.005399 megapixels" in onesheet("predict", folder / "red.jpg").err

    monkeypatch.setenv("ONESHEET_MAX_UPLOAD_BYTES", "10")
    assert "the file is larger than" in onesheet("predict", folder / "red.jpg").err


@pytest.mark.parametrize(("name", "value"), [("THREADS", "0"), ("MAX_PIXELS", "-1")])
def test_a_wrong_setting_is_named(
    onesheet: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"ONESHEET_{name}", value)

    outcome = onesheet("predict", folder / "red.jpg")

    assert (outcome.code, outcome.out) == (2, "")
    assert re.fullmatch(rf"onesheet: ONESHEET_{name} must be .*, got '{value}'\n", outcome.err)


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "tcp://10.96.14.7:8000"), ("DRIFT_PORT", "x"), ("API_KEYS", "plain"), ("FOLLOW_SECONDS", "30")],
)
def test_a_wrong_setting_of_another_command_stops_nobody(
    onesheet: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"ONESHEET_{name}", value)
    assert onesheet("predict", folder / "red.jpg").code == 0


@pytest.mark.parametrize(
    ("arguments", "variable", "value", "told"),
    [
        (("serve",), "PORT", "http", "ONESHEET_PORT must be an integer, got 'http'"),
        (("serve",), "API_KEY", "hunter2", "without ONESHEET_API_KEYS the API would be open to everybody"),
        (("serve", "--engine", "bentoml"), "API_KEYS", "hunter2", "ONESHEET_API_KEYS must list SHA-256 digests"),
        (("up",), "API_KEY", "hunter2", "without ONESHEET_API_KEYS the API would be open to everybody"),
        (("serve", "--follow", "0"), "BUNDLE", "champion", "follow_seconds must be greater than 0, got 0.0"),
        (("ui",), "UI_PORT", "x", "ONESHEET_UI_PORT must be an integer, got 'x'"),
        (("watch",), "DRIFT_HOURS", "-1", "ONESHEET_DRIFT_HOURS must be greater than 0, got '-1'"),
    ],
)
def test_a_service_does_not_start_with_a_wrong_setting(
    onesheet: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    variable: str,
    value: str,
    told: str,
) -> None:
    monkeypatch.setenv(f"ONESHEET_{variable}", value)

    outcome = onesheet(*arguments)

    assert (outcome.code, outcome.out) == (2, "")
    assert told in outcome.err
    assert "hunter2" not in outcome.err


def test_an_env_file_that_is_no_text(onesheet: Callable[..., Any], folder: Path) -> None:
    Path(".env").write_bytes(b"\xff\xfe")

    outcome = onesheet("predict", folder / "red.jpg")

    assert (outcome.code, outcome.err) == (2, "onesheet: the .env file here is no UTF-8 text\n")


@pytest.fixture
def broken_bundle(tiny_bundle: Path, tmp_path: Path) -> Callable[[str], str]:
    """`broken_bundle("flipped")`: a reference to a bundle that cannot be used."""

    def broken(how: str) -> str:
        copy = shutil.copytree(tiny_bundle, tmp_path / how)
        metadata = json.loads((copy / "bundle.json").read_text())
        if how == "flipped":
            model = bytearray((copy / "model.onnx").read_bytes())
            model[-1] ^= 1
            (copy / "model.onnx").write_bytes(model)
        elif how == "newer":
            (copy / "bundle.json").write_text(json.dumps({**metadata, "schema_version": 2}))
        elif how == "hostile":
            (copy / "bundle.json").write_text(json.dumps({**metadata, "schema_version": "\x1b[31m\nTraceback"}))
        elif how == "archive":
            (copy / "bundle.tar.gz").write_bytes(b"no archive")
            return str(copy / "bundle.tar.gz")
        elif how == "missing":
            return str(copy / "nowhere")
        else:
            (copy / "bundle.json").unlink()
        return str(copy)

    return broken


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("flipped", "model.onnx differs from the hash in bundle.json; get the bundle again"),
        ("newer", "the bundle has schema 2, this onesheet reads schema 1: upgrade onesheet"),
        ("hostile", "this onesheet reads schema 1: export it again"),
        ("archive", "bundle.tar.gz is not a readable .tar.gz"),
        ("missing", "nowhere: name a folder, a .tar.gz or `starter`"),
        ("without its document", "holds no bundle.json"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "bench"])
def test_a_bundle_that_cannot_be_used_is_one_line(
    onesheet: Callable[..., Any],
    folder: Path,
    broken_bundle: Callable[[str], str],
    command: str,
    how: str,
    message: str,
) -> None:
    arguments = [folder / "red.jpg"] if command == "predict" else []

    outcome = onesheet(command, *arguments, "--bundle", broken_bundle(how))

    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("onesheet: ")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.err.strip("\n").isprintable()


# ----------------------------------------------------------------------------------------- bench, version, help


def test_bench_measures_this_machine(onesheet: Callable[..., Any], make_poster: Callable[..., bytes]) -> None:
    Path("posters").mkdir()
    Path("posters/one.jpg").write_bytes(make_poster())

    text = onesheet("bench", "posters", "--seconds", 0.1)
    as_json = onesheet("bench", "posters", "--seconds", 0.1, "--json")

    assert (text.code, text.err, as_json.code, as_json.err) == (0, "", 0, "")
    for name in ("1 posters", "decode alone", "model alone", "decode + model", "end to end", "% of decode + model"):
        assert name in text.out
    (line,) = as_json.lines
    assert line["posters"] == 1
    assert all(value > 0 for value in line.values())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "onesheet: no posters in nowhere\n"),
        (["posters"], 1, "onesheet: posters/bad.jpg: the file is not a JPEG, PNG, WebP or GIF picture\n"),
        (["posters", "--seconds", "0"], 2, "Invalid value for '--seconds'"),
        (["posters", "--seconds", "nan"], 2, "Invalid value for '--seconds'"),
    ],
)
def test_bench_of_what_cannot_be_measured(
    onesheet: Callable[..., Any], arguments: list[str], code: int, message: str
) -> None:
    Path("posters").mkdir()
    Path("posters/bad.jpg").write_bytes(b"text")

    outcome = onesheet("bench", *arguments)

    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err


def test_a_key_and_its_digest(onesheet: Callable[..., Any]) -> None:
    (first,), (second,) = onesheet("key", "--json").lines, onesheet("key", "--json").lines
    assert first["digest"] == hashlib.sha256(first["key"].encode()).hexdigest()
    assert first["key"] != second["key"]
    assert len(first["key"]) >= 43  # 256 bits

    words = onesheet("key").out.split()
    assert hashlib.sha256(words[4].encode()).hexdigest() == words[-1]


def test_the_version(onesheet: Callable[..., Any]) -> None:
    outcome = onesheet("--version")

    assert (outcome.code, outcome.out, outcome.err) == (0, f"onesheet {version('onesheet')}\n", "")


@pytest.mark.parametrize(
    "command",
    ["predict", "serve", "key", "bench", "train", "evaluate", "export", "data fetch", "data prepare", "data stats"],
)
def test_every_command_has_help_with_an_example(onesheet: Callable[..., Any], command: str) -> None:
    outcome = onesheet(*command.split(), "--help")

    assert (outcome.code, outcome.err) == (0, "")
    assert f"Usage: onesheet {command}" in outcome.out
    assert f"Example: onesheet {command}" in " ".join(outcome.out.split())


@pytest.mark.parametrize(("command", "parts"), [("", ["predict", "serve", "data"]), ("data", ["fetch", "prepare"])])
def test_help_lists_the_commands(onesheet: Callable[..., Any], command: str, parts: list[str]) -> None:
    outcome = onesheet(*command.split(), "--help")

    assert (outcome.code, outcome.err) == (0, "")
    assert all(part in outcome.out for part in parts)


def test_without_arguments_there_is_help(onesheet: Callable[..., Any]) -> None:
    outcome = onesheet()

    assert "Usage: onesheet" in outcome.out + outcome.err
    assert "Traceback" not in outcome.err


# --------------------------------------------------------------------------------- what the world does to it


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PermissionError(13, "Permission denied", "/root/x"), 1, "/root/x: Permission denied"),
        (OSError(28, "No space left on device"), 1, "output: No space left on device"),
        (OSError("odd"), 1, "output: odd"),
    ],
)
def test_an_error_of_the_system_is_one_line(
    onesheet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(predictor_module, "load_predictor", broken)

    outcome = onesheet("predict", "poster.jpg")

    assert (outcome.code, outcome.out, outcome.err) == (code, "", f"onesheet: {message}\n")


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        (["data", "fetch"], "onesheet.data.fetch", "data"),
        (["data", "prepare"], "onesheet.data.prepare", "data"),
        (["data", "stats"], "onesheet.data.stats", "data"),
        (["data", "from-log"], "onesheet.data.from_log", "data"),
        (["drift"], "onesheet.monitoring.drift", "drift"),
        (["watch"], "onesheet.monitoring.drift.service", "drift"),
        (["train"], "onesheet.training.compose", "train"),
        (["evaluate", "--labels", "train.csv", "--images", "Images"], "onesheet.evaluation.evaluate", "evaluate"),
        (["export", "best.ckpt", "--out", "bundle"], "onesheet.export.export", "train"),
    ],
)
def test_without_its_extra_a_command_says_what_to_install(
    onesheet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, command: list[str], module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it now fails

    outcome = onesheet(*command)

    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"onesheet: this command needs the extra `{extra}`")
    assert f"pip install 'onesheet[{extra}]'" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_mistake_of_ours_is_not_hidden(onesheet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(predictor_module, "load_predictor", broken)
    monkeypatch.setattr(sys, "argv", ["onesheet", "predict", "poster.jpg"])

    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_an_interrupt_before_the_command_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)

    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "onesheet: interrupted\n"


# ------------------------------------------------------------------------------------------- a real process


@pytest.fixture
def environment(tiny_bundle: Path, tmp_path: Path) -> dict[str, str]:
    """Of a user with an empty home."""
    (tmp_path / "home").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ONESHEET_", "PYTHON", "COV"))}
    return {**kept, "HOME": str(tmp_path / "home"), "ONESHEET_BUNDLE": str(tiny_bundle)}


# The peak of a process counts that of the process it was started from, so a small one starts it.
MEASURE = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([done.returncode, done.stderr, peak]))
"""


def test_a_bomb_costs_no_memory(script: str, folder: Path, environment: dict[str, str]) -> None:
    posters = [str(folder / name) for name in ("bomb.png", "large.png", "red.jpg")]

    command = [sys.executable, "-c", MEASURE, script, "predict", *posters]
    measured = run_command(command, check=True, env=environment)

    code, errors, peak = json.loads(measured.stdout)
    assert code == 1
    assert errors.splitlines() == [f"onesheet: {path}: {BAD[Path(path).name][1]}" for path in posters[:2]]
    assert 20 * MEBIBYTE < peak < 500 * MEBIBYTE


def test_bad_input_of_every_kind_on_the_starter(script: str, folder: Path, environment: dict[str, str]) -> None:
    environment.pop("ONESHEET_BUNDLE")
    odd = os.fsencode(folder) + b"/\xff.jpg"

    done = run_command(
        [script, "predict", *(folder / name for name in BAD), odd, folder / "red.jpg"],
        env=environment,
    )

    assert done.returncode == 1
    assert done.stdout.startswith(f"{folder}/red.jpg: ")
    assert done.stdout.count("\n") == 1
    lines = done.stderr.splitlines()
    assert lines[:-1] == [f"onesheet: {folder}/{name}: {message}" for name, (_, message) in BAD.items()]
    assert lines[-1] == f"onesheet: {folder}/\ufffd.jpg: no such file"


def test_a_reader_that_goes_away(script: str, folder: Path, environment: dict[str, str], start_process: Start) -> None:
    command = [script, "predict", *[str(folder / "red.jpg")] * 3000]
    process = start_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=False)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        process.stdout.readline()
        process.stdout.close()

        assert process.stderr.read() == b""
        assert process.wait(MAX_WAIT) == 1


def test_an_interrupt(script: str, tmp_path: Path, environment: dict[str, str], start_process: Start) -> None:
    poster = tmp_path / "slow.png"
    Image.effect_noise((1500, 2000), 90).save(poster, compress_level=0)
    command = [script, "predict", *[str(poster)] * 1000]
    process = start_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=False)
    assert process.stdout is not None
    process.stdout.readline()
    errors = _press_control_c(process)

    assert process.returncode in {130, -signal.SIGINT}
    assert b"Traceback" not in errors


# Waits for a thread at its end, as one does that reads a large picture on a busy machine.
INTERRUPTED_AT_WORK = """
import sys, threading, time
import onesheet.cli as cli
def app():
    threading.Thread(target=time.sleep, args=[3600]).start()
    print("working", flush=True)
    time.sleep(3600)
cli.app = app
cli.main()
"""


def test_a_second_interrupt_ends_it_at_once(environment: dict[str, str], start_process: Start) -> None:
    command = [sys.executable, "-c", INTERRUPTED_AT_WORK]
    process = start_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=False)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()

    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == b"onesheet: interrupted\n"
    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=MAX_WAIT) == (b"", b"")
    assert process.returncode == -signal.SIGINT


def _press_control_c(process: subprocess.Popen[bytes]) -> bytes:
    """Again if it must be, as a person would: Python may lose an interrupt that falls into a destructor."""
    for _ in range(30):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=MAX_WAIT)[1]
    raise AssertionError("it goes on")


def test_the_starter_is_used_when_no_bundle_is_named(onesheet: Callable[..., Any], folder: Path) -> None:
    (line,) = onesheet("predict", folder / "red.jpg", "--json", "--bundle", "starter").lines

    assert line["model"]["name"] == load_bundle().metadata.name
    assert len(line["topk"]) == 5


def test_long_work_without_a_terminal_says_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 61.0, 61.0, 70.0, 130.0, 130.0])
    monkeypatch.setattr(console, "monotonic", lambda: next(clock))
    with console.progress("Scoring") as advance:
        advance(512, None)
        advance(1024, None)
        advance(1536, 20_000)
        advance(20_000, 20_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["onesheet: Scoring: 1,024 of ?", "onesheet: Scoring: 20,000 of 20,000"]
