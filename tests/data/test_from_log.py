"""What people say of answers becomes labelled posters: with consent, each picture once, and never the judged ones."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from onesheet.bundle import REFERENCE_FILE, load_bundle, write_bundle
from onesheet.data.from_log import FeedbackCounts, from_log
from onesheet.data.labels import read_labels
from onesheet.data.prepare import prepare
from onesheet.errors import BundleCorruptError, DataError
from onesheet.image_statistics import STATISTICS
from onesheet.predictionlog import Feedback, LoggedPrediction, PictureFolder, PredictionLog

NOW = datetime(2026, 11, 23, tzinfo=UTC)
GENRES = ("Comedy", "Drama", "Horror", "Romance")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def film(data: bytes) -> str:
    return f"fb-{sha256(data)[:16]}"


def poster(seed: int, kind: str = "JPEG") -> bytes:
    """One that is like no other."""
    pixels = np.random.default_rng(1000 + seed).integers(0, 256, (9, 6, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).resize((60, 90), Image.Resampling.NEAREST).save(encoded, kind)
    return encoded.getvalue()


@dataclass
class Loop:
    """A log and its kept pictures, as a service leaves them."""

    log: PredictionLog
    url: str
    pictures: PictureFolder

    def answer(self, data: bytes, *, keep: bool = True) -> UUID:
        """As if it had been asked for."""
        given = LoggedPrediction(
            id=uuid4(),
            time=NOW,
            role="answered",
            model_name="tiny",
            model_version="1",
            genres=GENRES,
            probabilities=np.full(4, 0.5, np.float32),
            embedding=np.ones(2, np.float32),
            threshold=None,
            predicted=(),
            statistics=dict.fromkeys(STATISTICS, 1.0),
            latency_ms=1.0,
            file_name=None,
            content_sha256=sha256(data),
            request_id=None,
        )
        self.log.append([given])
        if keep:
            self.pictures.keep(sha256(data), data)
        return given.id

    def say(self, answer: UUID, *genres: str, hours: float = 0) -> None:
        """Feedback."""
        self.log.add_feedback(Feedback(answer, NOW + timedelta(hours=hours), genres))

    def people_say(self, data: bytes, *each: tuple[str, ...], keep: bool = True) -> None:
        """Several answers about one picture, and feedback on each."""
        for genres in each:
            self.say(self.answer(data, keep=keep), *genres)


@pytest.fixture
def loop(tmp_path):
    url = f"sqlite:///{tmp_path}/log.db"
    with closing(PredictionLog(url)) as log:
        log.migrate()
        yield Loop(log, url, PictureFolder(tmp_path / "pictures"))


def with_reference(bundle: Path, table: pa.Table, out: Path) -> Path:
    """The same bundle with another reference."""
    loaded = load_bundle(bundle)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    metadata = loaded.metadata.model_dump(exclude={"files", "schema_version"})
    write_bundle(metadata, {**loaded.files, REFERENCE_FILE: sink.getvalue()}, out)
    return out


JUDGED = poster(0)


@pytest.fixture
def bundle_folder(tiny_bundle, tmp_path):
    """A bundle that was judged by one of the pictures."""
    return with_reference(tiny_bundle, pa.table({"id": ["tt1"], "sha256": [sha256(JUDGED)]}), tmp_path / "bundle")


@pytest.fixture
def bundle(bundle_folder):
    return load_bundle(bundle_folder)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data" / "feedback"


def genres_of(out: Path) -> dict[str, tuple[str, ...]]:
    """What the folder says; each film has its picture."""
    by_id = read_labels(out / "train.csv").by_id
    assert {path.name for path in (out / "Images").iterdir()} == {f"{name}.jpg" for name in by_id}
    return by_id


def only(**counts: int) -> FeedbackCounts:
    return FeedbackCounts(**counts)


# ------------------------------------------------------------------------------------------------ what is true


def test_what_was_said_last_of_an_answer_counts(loop, bundle, out):
    answer = loop.answer(poster(1))
    for number, genre in enumerate(("Comedy", "Horror", "Drama")):
        loop.say(answer, genre, hours=number)
    loop.answer(poster(2))  # nobody speaks of it
    assert from_log(loop.log, out, bundle, loop.pictures) == only(taken=1)
    assert genres_of(out) == {film(poster(1)): ("Drama",)}
    assert (out / "Images" / f"{film(poster(1))}.jpg").read_bytes() == poster(1)


def test_a_genre_is_true_if_more_than_half_say_so(loop, bundle, out):
    loop.people_say(poster(1), ("Drama", "Comedy"), ("Drama",), ("Drama", "Horror"), ("Comedy",))
    loop.people_say(poster(2), ("Romance", "Drama"), ("Romance",))
    assert from_log(loop.log, out, bundle, loop.pictures) == only(taken=2)
    assert genres_of(out) == {film(poster(1)): ("Drama",), film(poster(2)): ("Romance",)}


def test_disputes_and_pictures_without_a_genre_are_left_out(loop, bundle, out):
    loop.people_say(poster(1), ("Drama",), ("Comedy",))
    loop.people_say(poster(2), ("Drama",), ())
    loop.people_say(poster(3), (), ())
    loop.people_say(poster(4), ("Drama",))
    assert from_log(loop.log, out, bundle, loop.pictures) == only(taken=1, disputed=2, empty=1)
    assert set(genres_of(out)) == {film(poster(4))}


def test_a_shadow_answer_does_not_make_two_of_one(loop, bundle, out):
    loop.people_say(poster(1), ("Drama",), ("Comedy",), ("Comedy",))
    (first, *_) = loop.log.predictions()
    loop.log.append([LoggedPrediction(**{**_fields(first), "role": "shadow", "model_version": "2"})])
    from_log(loop.log, out, bundle, loop.pictures)
    assert genres_of(out) == {film(poster(1)): ("Comedy",)}


def _fields(prediction: LoggedPrediction) -> dict[str, object]:
    return {name: getattr(prediction, name) for name in LoggedPrediction.__slots__}


def test_a_window_of_time(loop, bundle, out):
    answer = loop.answer(poster(1))
    for hours, genre in ((0, "Comedy"), (2, "Drama"), (4, "Horror")):
        loop.say(answer, genre, hours=hours)
    since, until = NOW + timedelta(hours=1), NOW + timedelta(hours=4)
    from_log(loop.log, out, bundle, loop.pictures, since=since, until=until)
    assert genres_of(out) == {film(poster(1)): ("Drama",)}
    with pytest.raises(DataError, match="no feedback to learn from"):
        from_log(loop.log, out / "later", bundle, loop.pictures, since=NOW + timedelta(hours=5))


# ------------------------------------------------------------------------------------------- which pictures


def test_the_posters_that_a_bundle_is_judged_by_are_left_out(loop, bundle, out):
    loop.people_say(JUDGED, ("Drama",))
    loop.people_say(poster(1), ("Drama",))
    assert from_log(loop.log, out, bundle, loop.pictures) == only(taken=1, reference=1)
    assert set(genres_of(out)) == {film(poster(1))}


def test_a_bundle_that_does_not_tell_what_it_was_judged_by_is_refused(loop, tiny_bundle, out):
    loop.people_say(poster(1), ("Drama",))
    with pytest.raises(BundleCorruptError, match="does not tell its posters by their sha256"):
        from_log(loop.log, out, load_bundle(tiny_bundle), loop.pictures)
    assert not out.exists()


def test_missing_and_damaged_pictures_are_counted(loop, bundle, out):
    for number in range(1, 5):
        loop.people_say(poster(number), ("Drama",))
    loop.people_say(b"no picture", ("Drama",))
    loop.pictures.find(sha256(poster(1))).unlink()
    loop.pictures.find(sha256(poster(2))).write_bytes(poster(2)[:-200])
    loop.pictures.find(sha256(poster(3))).write_bytes(poster(9))
    assert from_log(loop.log, out, bundle, loop.pictures) == only(taken=1, missing=1, damaged=3)
    assert set(genres_of(out)) == {film(poster(4))}


def test_pictures_are_found_in_any_folder_under_any_name(loop, bundle, out, tmp_path):
    found, png, lost = poster(1), poster(2, "PNG"), poster(3)
    for data in (found, png, lost):
        loop.people_say(data, ("Drama",), keep=False)
    elsewhere = tmp_path / "mine"
    (elsewhere / "deep/er").mkdir(parents=True)
    for name, data in {"a.jpg": found, "again.jpg": found, "deep/er/b": png, "c.jpg": poster(4)}.items():
        (elsewhere / name).write_bytes(data)
    seen: list[tuple[int, int]] = []
    counts = from_log(loop.log, out, bundle, elsewhere, on_picture=lambda *state: seen.append(state))
    assert counts == only(taken=2, missing=1)
    assert set(genres_of(out)) == {film(found), film(png)}
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(path.name for path in elsewhere.rglob("*") if path.is_file()) == ["a.jpg", "again.jpg", "b", "c.jpg"]


def test_a_set_to_add_to(loop, bundle, out, made_up_posters):
    known = (made_up_posters / "Images/tt0000003.jpg").read_bytes()
    loop.people_say(known, ("Horror",))
    loop.people_say(poster(1), ("Drama", "Western"))
    counts = from_log(loop.log, out, bundle, loop.pictures, base=made_up_posters)
    assert counts == only(taken=1, base=240, known=1)
    before, after = read_labels(made_up_posters / "train.csv"), read_labels(out / "train.csv")
    assert after.genres == (*GENRES, "Western")
    assert genres_of(out) == {**before.by_id, film(poster(1)): ("Drama", "Western")}
    for name in before.by_id:
        ours, theirs = (folder / "Images" / f"{name}.jpg" for folder in (out, made_up_posters))
        assert ours.samefile(theirs)
    assert json.loads((out / "feedback.json").read_text()) == asdict(counts)


def test_a_base_on_another_disk_is_copied(loop, bundle, out, made_up_posters, monkeypatch):
    def refused(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refused)
    assert from_log(loop.log, out, bundle, loop.pictures, base=made_up_posters) == only(base=240)
    poster_of = "Images/tt0000003.jpg"
    assert (out / poster_of).read_bytes() == (made_up_posters / poster_of).read_bytes()
    assert not (out / poster_of).samefile(made_up_posters / poster_of)


def test_a_labelled_film_without_a_poster_stays_one(loop, bundle, out, made_up_posters, tmp_path):
    base = Path(shutil.copytree(made_up_posters, tmp_path / "base"))
    (base / "Images/tt0000003.jpg").unlink()
    from_log(loop.log, out, bundle, loop.pictures, base=base)
    assert "tt0000003" in read_labels(out / "train.csv").by_id
    assert not (out / "Images/tt0000003.jpg").exists()


def test_the_columns_are_the_model_s_genres_in_its_order_and_then_others(loop, bundle, out):
    loop.people_say(poster(1), ("Western", "Horror", "Adult"))
    from_log(loop.log, out, bundle, loop.pictures)
    with (out / "train.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header == ["Id", "Genre", *GENRES, "Adult", "Western"]
    assert row == [film(poster(1)), "['Horror', 'Adult', 'Western']", "0", "0", "1", "0", "1", "1"]


# -------------------------------------------------------------------------------------- the folder as a whole


def test_nothing_to_learn_from_makes_nothing(loop, bundle, out):
    loop.people_say(poster(1), ("Drama",), ("Comedy",))
    with pytest.raises(DataError, match="no feedback to learn from; pictures left out: 1 disputed"):
        from_log(loop.log, out, bundle, loop.pictures)
    assert list(out.parent.iterdir()) == []


def test_only_force_replaces_an_earlier_set_and_nothing_replaces_another_folder(loop, bundle, out):
    loop.people_say(poster(1), ("Drama",))
    from_log(loop.log, out, bundle, loop.pictures)
    loop.people_say(poster(2), ("Drama",))
    with pytest.raises(DataError, match="--force replaces it"):
        from_log(loop.log, out, bundle, loop.pictures)
    assert len(genres_of(out)) == 1
    from_log(loop.log, out, bundle, loop.pictures, force=True)
    assert len(genres_of(out)) == 2
    assert list(out.parent.iterdir()) == [out]

    (out / "feedback.json").unlink()
    with pytest.raises(DataError, match="was not made of feedback"):
        from_log(loop.log, out, bundle, loop.pictures, force=True)
    assert len(genres_of(out)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of a file")
def test_a_failure_on_the_way_leaves_the_earlier_set(loop, bundle, out):
    import resource

    loop.people_say(poster(1), ("Drama",))
    from_log(loop.log, out, bundle, loop.pictures)
    loop.people_say(poster(2), ("Drama",))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            from_log(loop.log, out, bundle, loop.pictures, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert set(genres_of(out)) == {film(poster(1))}
    assert list(out.parent.iterdir()) == [out]


def test_the_set_is_ready_to_prepare(loop, bundle, out, made_up_posters, tmp_path):
    for number in range(1, 21):
        loop.people_say(poster(number), (GENRES[number % 4],))
    from_log(loop.log, out, bundle, loop.pictures, base=made_up_posters)
    manifest = prepare(out, tmp_path / "processed")
    counts = manifest.counts()
    assert sum(counts.values()) == 260
    assert counts["quarantine"] == 0
    mine = {entry.id: entry.genres for entry in manifest.entries if entry.id.startswith("fb-")}
    assert mine == {film(poster(number)): (GENRES[number % 4],) for number in range(1, 21)}


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture
def run(loop, bundle_folder, monkeypatch, tmp_path, capfd):
    """`run("--force")`: the command in this process; its exit code, output and errors."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("ONESHEET_BUNDLE", str(bundle_folder))
    monkeypatch.setenv("ONESHEET_LOG_URL", loop.url)
    monkeypatch.setenv("ONESHEET_KEEP_PICTURES", str(loop.pictures.folder))
    monkeypatch.setenv("ONESHEET_FEEDBACK_FOR_TRAINING", "true")

    def ran(*arguments: str) -> tuple[int, str, str]:
        from onesheet.cli import main

        monkeypatch.setattr(sys, "argv", ["onesheet", "data", "from-log", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return (stopped.value.code, *capfd.readouterr())

    return ran


def test_without_consent_nothing_is_made(loop, run, monkeypatch):
    loop.people_say(poster(1), ("Drama",))
    for refusal in ("false", None):
        if refusal:
            monkeypatch.setenv("ONESHEET_FEEDBACK_FOR_TRAINING", refusal)
        else:
            monkeypatch.delenv("ONESHEET_FEEDBACK_FOR_TRAINING")
        code, out, err = run()
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "ONESHEET_FEEDBACK_FOR_TRAINING" in err
    assert list(Path.cwd().iterdir()) == []


def test_the_command_tells_what_it_took_and_what_it_left(loop, run, made_up_posters):
    loop.people_say(poster(1), ("Drama",))
    loop.people_say(poster(2), ("Drama",), ("Comedy",))
    loop.people_say(JUDGED, ("Drama",))
    code, out, _ = run("--base", str(made_up_posters))
    assert code == 0
    assert out == (
        f"data/feedback: 1 posters of feedback, 240 films of {made_up_posters}\n"
        "left out: 1 disputed, 1 in the bundle's reference\n"
    )
    assert len(genres_of(Path("data/feedback"))) == 241
    assert run()[0] == 1
    code, _, err = run("--base", str(made_up_posters), "--since", "2999-01-01", "--force")
    assert (code, err) == (
        0,
        f"onesheet: no feedback was added: data/feedback holds the films of {made_up_posters} alone\n",
    )
    assert run("--force")[0] == 0
    assert len(genres_of(Path("data/feedback"))) == 1


def test_a_folder_of_pictures_instead_of_the_kept_ones(loop, run, monkeypatch, tmp_path):
    loop.people_say(poster(1), ("Drama",), keep=False)
    monkeypatch.delenv("ONESHEET_KEEP_PICTURES")
    code, _, err = run()
    assert (code, err.count("\n")) == (2, 1)
    assert "ONESHEET_KEEP_PICTURES" in err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/film.jpg").write_bytes(poster(1))
    assert run("--images", str(tmp_path / "mine"), "--out", "set")[0] == 0
    assert set(genres_of(Path("set"))) == {film(poster(1))}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--url", "sqlite:///nowhere.db"], 1, "there is no prediction log"),
        (["--base", "nowhere"], 1, "no label file"),
        (["--bundle", "nowhere"], 1, "nowhere"),
        (["--images", "nowhere"], 2, "nowhere"),
        (["--since", "yesterday"], 2, "yesterday"),
    ],
)
def test_a_wrong_option_is_told(loop, run, arguments, code, told):
    loop.people_say(poster(1), ("Drama",))
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert told in err
    assert "Traceback" not in err
    assert not Path("data").exists() or list(Path("data").iterdir()) == []


def test_a_window_is_in_utc(loop, run):
    answer = loop.answer(poster(1))
    loop.say(answer, "Drama")
    assert run("--since", "2026-11-23T00:00:01", "--out", "late")[0] == 1
    assert run("--since", "2026-11-23", "--until", "2026-11-23T00:00:01")[0] == 0


def test_the_help_has_an_example(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "Example: onesheet data from-log" in out
