"""The posters of a scored catalogue that are most like another one."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import tracemalloc
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from usearch.index import Index

from onesheet import load_predictor
from onesheet.bundle import load_bundle
from onesheet.errors import DataError
from onesheet.scoring import search
from onesheet.scoring.identity import bundle_identity
from onesheet.scoring.index import IndexStore
from onesheet.scoring.search import Catalogue, Similar
from tests.processes import run_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from onesheet.predictor import Predictor

BUNDLE = {"name": "made up", "version": "1", "sha256": "0" * 64}
COLOURS = ("red", "purple", "blue", "teal", "white", "olive", "orange", "green")


def write_catalogue(
    path: Path,
    embeddings: NDArray[Any] | None,
    *,
    names: list[str] | None = None,
    failed: tuple[int, ...] = (),
    rows: int | None = None,
    row_group: int = 700,
    fixed_size: bool = False,
    document: object = None,
) -> Path:
    """What `onesheet score` makes, as far as a search is concerned; `failed` rows hold an error."""
    rows = (0 if embeddings is None else len(embeddings)) if rows is None else rows
    is_good = [row not in failed for row in range(rows)]
    columns: dict[str, pa.Array] = {
        "poster": pa.array(names or [f"{row}.jpg" for row in range(rows)], pa.string()),
        "genres": pa.array([[f"Genre {row % 3}"] if good else None for row, good in enumerate(is_good)]),
        "error": pa.array([None if good else "corrupt_image" for good in is_good], pa.string()),
    }
    columns["genres"] = columns["genres"].cast(pa.list_(pa.string()))
    if embeddings is not None:
        kind = pa.list_(pa.float16(), embeddings.shape[1]) if fixed_size else pa.list_(pa.float16())
        halves = embeddings.astype(np.float16)
        columns["embedding"] = pa.array(
            [list(row) if good else None for row, good in zip(halves, is_good, strict=True)], kind
        )
    document = {"format": 1, "bundle": BUNDLE, "genres": []} if document is None else document
    table = pa.table(columns).replace_schema_metadata({"onesheet": json.dumps(document)})
    pq.write_table(table, path, row_group_size=row_group, write_page_checksum=True)
    return path


def made_up(rows: int, size: int = 16, seed: int = 0) -> NDArray[np.float16]:
    """Clusters, as posters have them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, size))
    return (centres[rng.integers(40, size=rows)] + rng.normal(size=(rows, size)) / 2).astype(np.float16)


def query(size: int = 16, seed: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def true_distances(embeddings: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    ours, theirs = embeddings.astype(np.float64), other.astype(np.float64)
    return 1 - ours @ theirs / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs))


def ask(path: Path, other: NDArray[np.float32], count: int = 10, *, exact: bool = False) -> Similar:
    with Catalogue(path) as catalogue:
        return catalogue.similar(other, count, exact=exact)


def rows_of(answer: Similar) -> list[int]:
    return [poster.row for poster in answer.posters]


@pytest.fixture
def with_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a small catalogue is searched by an index."""
    monkeypatch.setattr(search, "INDEX_FROM", 100)


# ------------------------------------------------------------------------------------------- every row compared


@pytest.mark.parametrize("fixed_size", [False, True])
@pytest.mark.parametrize("count", [1, 10, 3000, 5000])
def test_the_exact_answer_is_that_of_comparing_all(tmp_path: Path, count: int, fixed_size: bool) -> None:
    embeddings, other = made_up(3000), query()
    path = write_catalogue(tmp_path / "catalogue.parquet", embeddings, fixed_size=fixed_size)

    answer = ask(path, other, count)

    distances = true_distances(embeddings, other)
    expected = np.argsort(distances)[:count]
    assert answer.exact
    assert answer.note is None
    np.testing.assert_allclose([poster.distance for poster in answer.posters], distances[expected], atol=1e-5)
    np.testing.assert_allclose(distances[rows_of(answer)], distances[expected], atol=1e-5)
    assert len(set(rows_of(answer))) == min(count, 3000)
    for poster in answer.posters:
        assert (poster.poster, poster.genres) == (f"{poster.row}.jpg", (f"Genre {poster.row % 3}",))


def test_rows_with_an_error_are_left_out(tmp_path: Path, with_index: None) -> None:
    embeddings, other = made_up(2500), query()
    order = np.argsort(true_distances(embeddings, other)).tolist()
    path = write_catalogue(tmp_path / "catalogue.parquet", embeddings, failed=tuple(order[:5]))

    assert rows_of(ask(path, other, 5, exact=True)) == order[5:10]
    assert rows_of(ask(path, other, 5)) == order[5:10]


def test_of_equal_ones_the_first_come_first(tmp_path: Path) -> None:
    path = write_catalogue(tmp_path / "catalogue.parquet", np.tile(np.eye(4) + 0.1, (750, 1)))

    assert rows_of(ask(path, np.eye(4, dtype=np.float32)[2], 750)) == list(range(2, 3000, 4))


@pytest.mark.parametrize("exact", [True, False])
def test_what_has_no_direction_is_far_and_what_is_no_number_is_left_out(
    tmp_path: Path, with_index: None, exact: bool
) -> None:
    embeddings = made_up(500)
    embeddings[[3, 450]], embeddings[7], embeddings[9] = 0, np.nan, np.inf
    path = write_catalogue(tmp_path / "catalogue.parquet", embeddings)

    answer = ask(path, query(), 500, exact=exact)

    distances = {poster.row: poster.distance for poster in answer.posters}
    assert all(np.isfinite(list(distances.values())))
    assert not {7, 9} & set(distances)
    if exact:
        assert len(distances) == 498
        assert distances[3] == distances[450] == 1


def test_the_poster_itself_is_at_distance_zero(tmp_path: Path) -> None:
    embeddings = made_up(300)
    path = write_catalogue(tmp_path / "catalogue.parquet", embeddings)

    (itself,) = ask(path, embeddings[123].astype(np.float32), 1).posters

    assert (itself.row, itself.to_dict()["distance"]) == (123, 0)


def test_a_long_catalogue_is_read_in_bounded_memory(tmp_path: Path) -> None:
    rows, size = 25_000, 384
    values = pa.array(np.random.default_rng(0).normal(size=rows * size).astype(np.float16))
    embeddings = pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * size, values)
    columns = {"poster": [""] * rows, "genres": [["Drama"]] * rows, "embedding": embeddings}
    table = pa.table(columns).replace_schema_metadata({"onesheet": json.dumps({"format": 1, "bundle": BUNDLE})})
    path = tmp_path / "catalogue.parquet"
    pq.write_table(table, path, use_dictionary=False)  # in one row group, as if to annoy
    assert path.stat().st_size > 15e6
    del table, columns, embeddings, values

    with Catalogue(path) as catalogue:
        before, most = pa.total_allocated_bytes(), 0
        for _ in catalogue.embeddings(size):
            most = max(most, pa.total_allocated_bytes() - before)
        tracemalloc.start()
        try:
            catalogue.similar(query(size), 10)
            _, held_by_numpy = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert most < 8e6
    assert held_by_numpy < 8e6


def test_only_row_groups_of_the_answer_are_read_for_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = made_up(2000)
    embeddings[[200, 1799]] = query()
    path = write_catalogue(tmp_path / "catalogue.parquet", embeddings, row_group=100)
    read: list[tuple[tuple[str, ...], Any]] = []
    iterate = pq.ParquetFile.iter_batches

    def recorded(self: pq.ParquetFile, *arguments: Any, **options: Any) -> Any:
        read.append((tuple(options["columns"]), options.get("row_groups")))
        return iterate(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", recorded)

    assert [poster.poster for poster in ask(path, query(), 2).posters] == ["200.jpg", "1799.jpg"]
    assert read == [(("embedding",), None), (("poster", "genres"), [2]), (("poster", "genres"), [17])]


# ---------------------------------------------------------------------------------------------------- the index


def test_the_index_finds_what_comparing_all_finds(tmp_path: Path, with_index: None) -> None:
    embeddings = made_up(4000, 64)
    others = [query(64, seed) for seed in range(25)]
    for place, other in enumerate(others):  # one that cannot be missed
        embeddings[137 * place] = other + 0.05 * query(64, 1000 + place)
    path = write_catalogue(tmp_path / "catalogue.parquet", embeddings)

    found = [ask(path, other) for other in others]
    true = [ask(path, other, exact=True) for other in others]

    assert not any(answer.exact for answer in found)
    assert [rows_of(answer)[0] for answer in found] == [137 * place for place in range(25)]
    hits = [len({*rows_of(one)} & {*rows_of(other)}) for one, other in zip(found, true, strict=True)]
    assert np.mean(hits) / 10 >= 0.95
    for one, other in zip(found, true, strict=True):
        distances = {poster.row: poster.distance for poster in other.posters}
        for poster in one.posters:
            assert poster.distance == pytest.approx(distances.get(poster.row, poster.distance), abs=1e-6)
        assert [poster.distance for poster in one.posters] == sorted(poster.distance for poster in one.posters)


def test_the_index_is_made_once_with_progress(
    tmp_path: Path, with_index: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_catalogue(tmp_path / "catalogue.parquet", made_up(3000))
    told: list[tuple[int, int | None]] = []
    with Catalogue(path) as catalogue:
        first = catalogue.similar(query(), 10, on_progress=lambda *what: told.append(what))
    assert told[-1] == (3000, 3000)
    assert sorted(told) == told
    assert len(told) > 2
    files = ["catalogue.parquet", "catalogue.parquet.usearch", "catalogue.parquet.usearch.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == files

    monkeypatch.setattr(IndexStore, "build", lambda *_: pytest.fail("made again"))
    assert ask(path, query()) == first


def test_a_small_catalogue_and_an_exact_search_make_no_index(tmp_path: Path, with_index: None) -> None:
    small = write_catalogue(tmp_path / "small.parquet", made_up(100))
    large = write_catalogue(tmp_path / "large.parquet", made_up(101))

    assert ask(small, query()).exact
    assert ask(large, query(), exact=True).exact
    assert not list(tmp_path.glob("*.usearch*"))


@pytest.mark.parametrize("keeps_its_time", [False, True])
def test_another_catalogue_under_the_name_has_an_index_of_its_own(
    tmp_path: Path, with_index: None, keeps_its_time: bool
) -> None:
    path = tmp_path / "catalogue.parquet"
    for seed in (1, 2):
        write_catalogue(path, made_up(500, seed=seed))
        if keeps_its_time:
            os.utime(path, ns=(10**18, 10**18))
        answer = ask(path, query())
        assert not answer.exact
        assert rows_of(answer) == rows_of(ask(path, query(), exact=True))


def test_two_rows_that_change_places_are_noticed(tmp_path: Path, with_index: None) -> None:
    embeddings = made_up(500)
    path = write_catalogue(tmp_path / "catalogue.parquet", embeddings)
    nearest = rows_of(ask(path, query()))[0]
    other = (nearest + 1) % 500
    embeddings[[nearest, other]] = embeddings[[other, nearest]]
    write_catalogue(path, embeddings)

    assert rows_of(ask(path, query()))[0] == other


def test_a_catalogue_that_is_replaced_meanwhile_gets_an_index_of_its_own(tmp_path: Path, with_index: None) -> None:
    path = write_catalogue(tmp_path / "catalogue.parquet", made_up(500, seed=1))
    first = ask(path, query(), exact=True)
    new = write_catalogue(tmp_path / "new", made_up(500, seed=2))

    def put_another_there(*_: object) -> None:
        if new.exists():
            new.replace(path)

    with Catalogue(path) as catalogue:
        answer = catalogue.similar(query(), 10, on_progress=put_another_there)

    assert rows_of(answer) == rows_of(first)
    assert rows_of(ask(path, query())) == rows_of(ask(path, query(), exact=True)) != rows_of(first)


def test_more_may_be_asked_for_than_there_are(tmp_path: Path, with_index: None) -> None:
    path = write_catalogue(tmp_path / "catalogue.parquet", made_up(300), failed=(4,))

    assert sorted(rows_of(ask(path, query(), 10**30))) == [row for row in range(300) if row != 4]


def cut(index: Path, _: Path) -> None:
    index.write_bytes(index.read_bytes()[:-1000])


def emptied(index: Path, _: Path) -> None:
    index.write_bytes(b"")


def replaced(index: Path, _: Path) -> None:
    index.write_bytes(b"junk" * 10_000)


def rotten(index: Path, _: Path) -> None:
    """Neighbours that are none, which end the process of whoever follows them; the time of the file is as before."""
    state, content = index.stat(), bytearray(index.read_bytes())
    content[-5000:] = np.random.default_rng(0).bytes(5000)
    index.write_bytes(content)
    os.utime(index, ns=(state.st_atime_ns, state.st_mtime_ns))


def other_embeddings(index: Path, _: Path) -> None:
    content = bytearray(index.read_bytes())
    content[8:8000] = bytes(7992)
    index.write_bytes(content)


def removed(index: Path, _: Path) -> None:
    index.unlink()


def not_described(_: Path, about: Path) -> None:
    about.unlink()


def described_as(text: str) -> Callable[[Path, Path], None]:
    return lambda _, about: about.write_text(text) and None


DAMAGE = [
    cut,
    emptied,
    replaced,
    rotten,
    other_embeddings,
    removed,
    not_described,
    *map(
        described_as, ["", "junk", "[]", "{}", '{"rows": -1000000}', '{"rows": "many"}', '{"rows": 1e400}', "[" * 10**5]
    ),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_index_is_made_again(
    tmp_path: Path, with_index: None, damage: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_catalogue(tmp_path / "catalogue.parquet", made_up(300))
    before = ask(path, query())
    index, about = tmp_path / "catalogue.parquet.usearch", tmp_path / "catalogue.parquet.usearch.json"

    damage(index, about)

    assert ask(path, query()) == before
    monkeypatch.setattr(IndexStore, "build", lambda *_: pytest.fail("made a third time"))
    assert ask(path, query()) == before


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from onesheet.scoring import search

path, when = Path(sys.argv[1]), sys.argv[2]
renamed = []
rename = Path.replace

def replace(self, target):
    if when == "before the first":
        os._exit(9)
    rename(self, target)
    if when == "between":
        os._exit(9)

Path.replace = replace
search.INDEX_FROM = 100
with search.Catalogue(path) as catalogue:
    stop = lambda *_: os._exit(9) if when == "at work" else None
    catalogue.similar(np.ones(16, np.float32), 10, on_progress=stop)
"""


@pytest.mark.parametrize("when", ["at work", "before the first", "between"])
def test_a_killed_process_leaves_no_half_index(tmp_path: Path, with_index: None, when: str) -> None:
    path = write_catalogue(tmp_path / "catalogue.parquet", made_up(500, seed=1))
    ask(path, query())  # the index of an earlier catalogue is there as well
    write_catalogue(path, made_up(600, seed=2))

    killed = run_command([sys.executable, "-c", KILLED, path, when])

    assert killed.returncode == 9
    with Catalogue(path) as catalogue:
        assert IndexStore(catalogue).open(16) is None
    assert rows_of(ask(path, query())) == rows_of(ask(path, query(), exact=True))


def test_who_interrupts_leaves_nothing_behind(tmp_path: Path, with_index: None) -> None:
    path = write_catalogue(tmp_path / "catalogue.parquet", made_up(500))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with Catalogue(path) as catalogue, pytest.raises(KeyboardInterrupt):
        catalogue.similar(query(), 10, on_progress=interrupt)

    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_takes_no_files_is_searched_all_the_same(
    tmp_path: Path, with_index: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_catalogue(tmp_path / "catalogue.parquet", made_up(500))

    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryDirectory", refused)
        answer = ask(path, query())
    assert answer.exact
    assert answer.note == "every row is read, as the index cannot be kept beside the catalogue: Permission denied"
    assert replace(answer, note=None) == ask(path, query(), exact=True)

    def full(*_: object) -> None:
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(Index, "save", full)
    assert "No space left" in str(ask(path, query()).note)
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------------------- the bundle


def test_a_bundle_is_known_by_its_graph(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)

    identity = bundle_identity(bundle)

    digest = hashlib.sha256(bundle.model).hexdigest()
    assert identity == {"name": "tiny", "version": "1.2.3", "sha256": digest}


@pytest.mark.parametrize("field", ["name", "version", "sha256"])
def test_another_bundle_is_refused(tmp_path: Path, field: str) -> None:
    path = write_catalogue(tmp_path / "catalogue.parquet", made_up(5))

    with Catalogue(path) as catalogue:
        catalogue.check_bundle(dict(BUNDLE))
        with pytest.raises(DataError, match=r"was scored with made up 1 .* cannot be compared"):
            catalogue.check_bundle({**BUNDLE, field: "another"})


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def colours(tmp_path: Path, predictor: Predictor, tiny_bundle: Path, make_poster: Callable[..., bytes]) -> Path:
    """A catalogue of posters of one colour each, and of one that could not be read."""
    embeddings = [prediction.embedding for prediction in predictor.predict([make_poster(name) for name in COLOURS])]
    return write_catalogue(
        tmp_path / "catalogue.parquet",
        np.stack([*embeddings, embeddings[0]]),
        names=[*(f"[{name}]\x1b.jpg" for name in COLOURS), "broken.jpg"],
        failed=(len(COLOURS),),
        document={"format": 1, "bundle": bundle_identity(load_bundle(tiny_bundle))},
    )


@pytest.fixture
def poster(tmp_path: Path, make_poster: Callable[..., bytes]) -> Path:
    path = tmp_path / "poster.png"
    path.write_bytes(make_poster("#f80808", kind="PNG"))
    return path


def test_the_command_lists_the_nearest_posters(
    onesheet: Callable[..., Any], colours: Path, poster: Path, tiny_bundle: Path
) -> None:
    done = onesheet("similar", poster, "--in", colours, "--top-k", 2, "--json")

    assert (done.code, done.err) == (0, "")
    (answer,) = done.lines
    assert answer["exact"] is True
    assert answer["bundle"] == bundle_identity(load_bundle(tiny_bundle))
    first, second = answer["similar"]
    assert first == {"poster": "[red]\x1b.jpg", "genres": ["Genre 0"], "distance": first["distance"], "row": 0}
    assert 0 <= first["distance"] < 0.01 < second["distance"]

    done = onesheet("similar", poster, "--in", colours, "--bundle", tiny_bundle)

    assert (done.code, done.err) == (0, "")
    lines = [line for line in done.out.splitlines() if ".jpg" in line]
    assert len(lines) == len(COLOURS)
    assert "[red]\ufffd.jpg" in lines[0]
    assert "Genre 0" in lines[0]
    assert "0.00" in lines[0]
    assert "\x1b" not in done.out


def test_what_score_makes_can_be_asked(
    onesheet: Callable[..., Any], make_poster: Callable[..., bytes], poster: Path, tmp_path: Path
) -> None:
    folder, path = tmp_path / "posters", tmp_path / "scored.parquet"
    folder.mkdir()
    for name in COLOURS:
        (folder / f"{name}.jpg").write_bytes(make_poster(name))
    (folder / "broken.jpg").write_bytes(b"no picture")
    onesheet("score", folder, "--out", path, "--embeddings")

    (answer,) = onesheet("similar", poster, "--in", path, "--json").lines

    assert len(answer["similar"]) == len(COLOURS)
    assert answer["similar"][0]["poster"].endswith("red.jpg")
    assert answer["similar"][0]["distance"] < 0.01


def test_the_command_says_when_there_is_no_usearch(
    onesheet: Callable[..., Any], colours: Path, poster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = onesheet("similar", poster, "--in", colours, "--json", "--exact")
    monkeypatch.setattr(search, "INDEX_FROM", 3)
    assert onesheet("similar", poster, "--in", colours, "--json").lines[0]["exact"] is False
    monkeypatch.setitem(sys.modules, "usearch.index", None)

    done = onesheet("similar", poster, "--in", colours, "--json")

    assert (done.code, done.out) == (0, exact.out)
    assert "pip install 'onesheet[score]'" in done.err
    assert onesheet("similar", poster, "--in", colours, "--json", "--exact").err == ""


def test_without_parquet_the_command_says_what_to_install(
    onesheet: Callable[..., Any], colours: Path, poster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "onesheet.scoring.search")
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    done = onesheet("similar", poster, "--in", colours)

    assert done.code == 1
    assert "onesheet[score]" in done.err


def test_catalogues_that_cannot_be_searched_are_told_in_one_line(
    onesheet: Callable[..., Any], colours: Path, poster: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    good, rng = colours.read_bytes(), np.random.default_rng(0)
    identity = bundle_identity(load_bundle(tiny_bundle))
    document = {"format": 1, "bundle": identity}
    page = bytearray(good)
    with pq.ParquetFile(colours) as file:
        names = file.schema_arrow.names
        chunk = file.metadata.row_group(0).column(names.index("embedding"))
        start = chunk.dictionary_page_offset or chunk.data_page_offset
    page[start + 40 : start + 60] = rng.bytes(20)
    plain = BytesIO()
    pq.write_table(pa.table({"poster": ["a.jpg"]}), plain)
    few = made_up(5, 8)

    def made(name: str, *arguments: Any, **options: Any) -> bytes:
        return write_catalogue(tmp_path / name, *arguments, **options).read_bytes()

    contents = {
        "score it with --embeddings": made("made", None, rows=3, document=document),
        "no poster that could be scored": made("made", few[:0], document=document),
        "holds no poster that could be": made("made", few, failed=(0, 1, 2, 3, 4), document=document),
        "embeddings of another size than 8": made("made", made_up(5, 9), document=document),
        "was not made by onesheet score": plain.getvalue(),
        "does not say what it was scored with": made("made", few, document={"format": 1, "bundle": "tiny"}),
        "does not say what it was": made("made", few, document=[]),
        "another version of onesheet": made("made", few, document={"format": 2, "bundle": identity}),
        "cannot be compared; name the bundle": made("made", few),
        "is no Parquet file, or damaged": good[: len(good) // 2],
        "or damaged:": b"",
        "no Parquet file": b"junk" * 100,
        "Parquet file, or damaged": bytes(page),
    }
    for expected, content in contents.items():
        colours.write_bytes(content)
        done = onesheet("similar", poster, "--in", colours, "--json")
        assert (done.code, done.out) == (1, ""), expected
        assert expected in done.err
        assert done.err.count("\n") == 1
        assert done.err.startswith("onesheet: ")
    for place in (tmp_path / "nowhere.parquet", tmp_path):
        done = onesheet("similar", poster, "--in", place)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)


def test_damage_anywhere_is_no_traceback(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_catalogue(tmp_path / "catalogue.parquet", made_up(200))
    good = path.read_bytes()
    refused = 0
    for _ in range(150):
        content, start = bytearray(good), int(rng.integers(len(good)))
        content[start : start + 8] = rng.bytes(8)
        path.write_bytes(content[: len(good)])
        try:
            ask(path, query())
        except DataError:
            refused += 1
    assert refused > 50


def test_a_poster_that_cannot_be_read_is_told(onesheet: Callable[..., Any], colours: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")

    done = onesheet("similar", broken, "--in", colours, "--json")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"onesheet: {broken}: the file is not a JPEG, PNG, WebP or GIF picture\n"

    done = onesheet("similar", tmp_path / "nowhere.jpg", "--in", colours)
    assert (done.code, done.out) == (1, "")
    assert "no such file" in done.err


def test_wrong_usage_is_told(onesheet: Callable[..., Any], colours: Path, poster: Path) -> None:
    assert onesheet("similar", poster).code == 2
    assert onesheet("similar", "--in", colours).code == 2
    assert onesheet("similar", poster, "--in", colours, "--top-k", 0).code == 2


@pytest.mark.posters
def test_a_real_poster_is_found_again(posters: Path, tmp_path: Path) -> None:
    files, predictor = sorted((posters / "Images").iterdir())[:40], load_predictor()
    embeddings = np.stack([prediction.embedding for prediction in predictor.predict(files)])
    path = write_catalogue(tmp_path / "catalogue.parquet", embeddings, names=[file.name for file in files])

    for file in files[::8]:
        with Image.open(file) as image:
            smaller = image.convert("RGB").resize((image.width * 2 // 3, image.height * 2 // 3))
        copy = BytesIO()
        smaller.save(copy, "JPEG", quality=60)
        found = ask(path, predictor.predict(copy.getvalue()).embedding, 3).posters
        assert found[0].poster == file.name
        assert found[0].distance < found[1].distance / 2
