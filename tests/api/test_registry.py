"""The registry on every store that it knows: versions, aliases, history; and two people at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import create_engine, make_url, text

from onesheet import cli, load_predictor
from onesheet.bundle import load_bundle
from onesheet.errors import (
    BundleCorruptError,
    MovedMeanwhileError,
    RegistryError,
    UnknownVersionError,
)
from onesheet.predictor import Predictor
from onesheet.registry import Registry, open_registry
from onesheet.settings import Settings
from tests.processes import eventually, started_process


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, free_port) -> Iterator[str]:
    """MLflow's own server, which keeps the artifacts too."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    options = {
        "--backend-store-uri": f"sqlite:///{folder}/server.db",
        "--artifacts-destination": str(folder / "artifacts"),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
    }
    command = [sys.executable, "-m", "mlflow", "server", *(word for pair in options.items() for word in pair)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (
        (folder / "log").open("wb") as log,
        started_process(command, stdout=log, stderr=log, cwd=folder, env=environment) as server,
    ):

        def answers() -> bool:
            assert server.poll() is None, (folder / "log").read_text()
            with suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{port}/health").is_success
            return False

        eventually(answers)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def mlflow_in_postgres(postgres) -> str:
    """A database of its own: MLflow remembers for as long as the process lives that it has made its tables."""
    engine = create_engine(postgres.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE registry"))
    engine.dispose()
    return str(make_url(postgres.url).set(database="registry").render_as_string())


@pytest.fixture(scope="module")
def mlflow_in_a_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SQLite file."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/registry.db"


@pytest.fixture(params=["mlflow_in_a_file", "mlflow_in_postgres", "mlflow_server"])
def url(request: pytest.FixtureRequest) -> str:
    """An address of a registry, which others have used under other names."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where databases keep their bundles, from the first one on."""
    return str(tmp_path_factory.mktemp("artifacts") / "bundles")


@pytest.fixture
def open_as(url: str, artifacts: str, request: pytest.FixtureRequest):
    """`open_as("ada")`: the registry as somebody sees it."""
    model = re.sub(r"\W+", "-", request.node.name)

    def opened(actor: str) -> Registry:
        place = None if url.startswith("http") else artifacts
        return open_registry(Settings(registry_url=url, registry_artifacts=place, registry_model=model, actor=actor))

    return opened


def move(registry: Registry, alias: str, version, kind="promote"):
    return registry.move(registry.standing(alias), version, kind, "because")


def test_versions_aliases_and_history(register, open_as, tiny_bundle, next_bundle, tmp_path):
    ada, bob = open_as("ada"), open_as("bob")
    assert (ada.versions(), ada.aliases(), ada.history()) == ([], {}, [])

    first = register(ada, tiny_bundle, "the first")
    second = register(bob, next_bundle)
    move(ada, "challenger", second, "register")
    move(ada, "champion", first)
    move(bob, "champion", second)

    listed = ada.versions()
    assert [(each.number, each.by, each.note, each.lineage.model_version) for each in listed] == [
        (second.number, "bob", "", "2.0.0"),
        (first.number, "ada", "the first", "1.2.3"),
    ]
    lineage = listed[1].lineage
    assert (lineage.architecture, lineage.metrics, lineage.fingerprint) == ("mean_colour", {"f1_macro": 0.5}, "0" * 64)
    assert lineage.bytes == sum(len(content) for content in load_bundle(tiny_bundle).files.values())
    assert ada.aliases() == {"champion": second.number}  # what is promoted challenges nobody any more
    assert [(each.by, each.kind, each.alias, each.before, each.after, each.state) for each in bob.history()] == [
        ("ada", "register", "challenger", None, second.number, "done"),
        ("ada", "promote", "champion", None, first.number, "done"),
        ("bob", "promote", "champion", first.number, second.number, "done"),
    ]
    assert bob.former_champion() == first
    assert bob.find("champion") == second
    assert bob.load(first).metadata == load_bundle(tiny_bundle).metadata
    assert bob.fetch(second, tmp_path / "deep" / "copy").files == load_bundle(next_bundle).files
    assert load_bundle(tmp_path / "deep" / "copy").metadata.version == "2.0.0"


def test_of_two_who_promote_at_once_one_wins_and_the_other_is_told(register, open_as, tiny_bundle, next_bundle):
    ada, bob = open_as("ada"), open_as("bob")
    first, second = register(ada, tiny_bundle), register(ada, next_bundle)
    decided = [(ada, ada.standing("champion"), first), (bob, bob.standing("champion"), second)]
    together = threading.Barrier(2)

    def promote(registry, standing, version):
        together.wait()
        try:
            return registry.move(standing, version, "promote", "better")
        except MovedMeanwhileError as error:
            return error

    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(lambda each: promote(*each), decided))

    (lost,) = (each for each in ended if isinstance(each, MovedMeanwhileError))
    (won,) = (each for each in ended if each is not lost)
    assert ada.aliases() == {"champion": won.after}
    assert f"{won.by} moved the champion from version None to {won.after} meanwhile" in lost.message
    assert sorted(each.state for each in ada.history()) == ["done", "lost"]
    assert move(bob, "champion", second).state == "done"  # whoever looks again may


def test_somebody_elses_other_alias_is_in_nobodys_way(register, open_as, tiny_bundle):
    ada = open_as("ada")
    version = register(ada, tiny_bundle)
    standing = ada.standing("champion")
    move(open_as("bob"), "challenger", version, "register")
    assert ada.move(standing, version, "promote", "better").state == "done"


# ------------------------------------------------------------------------------------ what can go wrong, on one store


def test_a_bundle_is_named_by_alias_or_number_wherever_one_is_named(
    register, embedded, tiny_bundle, next_bundle, make_poster
):
    move(embedded, "champion", register(embedded, tiny_bundle))
    move(embedded, "challenger", register(embedded, next_bundle), "register")
    move(embedded, "holidays", register(embedded, next_bundle), "register")
    assert load_predictor("champion").predict(make_poster("yellow")).model_version == "1.2.3"
    for ref, version in (("challenger", "2.0.0"), ("registry:1", "1.2.3"), ("registry:holidays", "2.0.0")):
        assert load_bundle(ref).metadata.version == version
    for ref, said in (
        ("registry:9", "the registry has no version 9"),
        ("registry:nobody", "no alias `nobody`; there are: challenger, champion, holidays"),
    ):
        with pytest.raises(UnknownVersionError, match=said):
            load_bundle(ref)


def test_bundles_in_a_bucket(register, embedded, emulator, tiny_bundle, tmp_path):
    """MLflow's own client for Cloud Storage, against the emulator."""
    settings = Settings(registry_artifacts="gs://posters/registry")
    version = register(open_registry(settings), tiny_bundle)
    assert open_registry(settings).load(version).files == load_bundle(tiny_bundle).files
    assert not (tmp_path / "outputs" / "registry").exists()
    found = httpx.get(f"{os.environ['STORAGE_EMULATOR_HOST']}/storage/v1/b/posters/o").json()["items"]
    assert {Path(each["name"]).name for each in found} >= {"bundle.json", "model.onnx"}


def test_bundles_of_a_shared_database_that_are_elsewhere_by_now(
    mlflow_in_postgres, artifacts, register, tiny_bundle, tmp_path
):
    def opened(place: str):
        return open_registry(Settings(registry_url=mlflow_in_postgres, registry_artifacts=place))

    version = register(opened(artifacts), tiny_bundle)
    there = opened(str(shutil.move(artifacts, tmp_path / "moved")))
    try:
        assert there.load(version).files == load_bundle(tiny_bundle).files
        with pytest.raises(RegistryError, match="is not on this machine") as refused:
            register(there, tiny_bundle)
        assert all(place in refused.value.message for place in (artifacts, str(tmp_path / "moved")))
        assert not Path(artifacts).exists()
    finally:
        shutil.move(tmp_path / "moved", artifacts)


@pytest.mark.parametrize("name", ["model.onnx", "bundle.json"])
def test_what_was_changed_after_it_was_registered_is_refused(register, embedded, tiny_bundle, tmp_path, name):
    version = register(embedded, tiny_bundle)
    (stored,) = (tmp_path / "outputs").glob(f"registry/**/{name}")
    stored.write_bytes(stored.read_bytes().replace(b"tiny", b"TINY"))
    with pytest.raises(BundleCorruptError):
        embedded.fetch(version, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_move_that_is_under_way_is_waited_for_and_one_that_broke_off_is_not(
    register, embedded, tiny_bundle, monkeypatch
):
    version = register(embedded, tiny_bundle)
    with monkeypatch.context() as broken:
        broken.setattr(type(embedded._store), "set_alias", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            move(embedded, "champion", version)
    with pytest.raises(MovedMeanwhileError, match="ada is moving the champion to version 1; try again in a minute"):
        embedded.standing("champion")
    monkeypatch.setattr("onesheet.registry.registry._MOVING", timedelta(0))
    assert move(embedded, "champion", version).state == "done"
    assert [each.state for each in embedded.history()] == ["begun", "done"]


def test_a_promotion_that_broke_off_at_its_very_end_can_be_rolled_back(
    register, embedded, tiny_bundle, next_bundle, monkeypatch
):
    first = register(embedded, tiny_bundle, alias="champion")
    second = register(embedded, next_bundle)
    with monkeypatch.context() as broken:
        broken.setattr(type(embedded._store), "conclude", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            move(embedded, "champion", second)
    assert embedded.aliases() == {"champion": second.number}
    assert embedded.former_champion() == first


def test_without_a_former_champion_nothing_is_rolled_back(register, embedded, tiny_bundle):
    with pytest.raises(UnknownVersionError, match="no champion before"):
        embedded.former_champion()
    move(embedded, "champion", register(embedded, tiny_bundle))
    with pytest.raises(UnknownVersionError, match="no champion before"):
        embedded.former_champion()


def test_a_registry_that_cannot_be_used_is_told_in_one_line(tmp_path, free_port, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "notes.db").write_text("these are notes, and no database at all")
    for url in (
        f"http://ada:secret@127.0.0.1:{free_port()}",
        f"sqlite:///{tmp_path}/notes.db",
        "nonsense://somewhere",
    ):
        with pytest.raises(RegistryError, match=r"the registry at .* cannot be used") as refused:
            open_registry(Settings(registry_url=url)).versions()
        assert "\n" not in refused.value.message
        assert "secret" not in refused.value.message


def onesheet(capsys, monkeypatch, *arguments: str) -> tuple[int, str]:
    """Its exit code, and what it says."""
    monkeypatch.setattr(sys, "argv", ["onesheet", "registry", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out + said.err


def test_the_commands(embedded, tiny_bundle, next_bundle, capsys, monkeypatch, tmp_path):
    run = partial(onesheet, capsys, monkeypatch)

    assert "no versions yet; next: onesheet registry register" in run("list")[1]
    code, said = run("register", str(tiny_bundle), "--note", "the first")
    assert (code, "version 1 (tiny 1.2.3) is the challenger" in said) == (0, True)
    assert "note: the run that it comes from is not named (--run DIR)" in said
    assert "note: data/processed holds no manifest" in said
    assert run("register", str(next_bundle), "--no-challenger")[0] == 0
    listed = [json.loads(line) for line in run("list", "--json")[1].splitlines()]
    assert [(each["number"], each["aliases"]) for each in listed] == [(2, []), (1, ["challenger"])]
    assert "version 1 (tiny 1.2.3) is the champion again" in run("rollback", "--to", "1", "--reason", "so")[1]
    moves = [json.loads(line) for line in run("history", "--json")[1].splitlines()]
    assert [(each["kind"], each["after"], each["by"], each["reason"]) for each in moves] == [
        ("register", 1, "ada", "the first"),
        ("rollback", 1, "ada", "so"),
    ]
    assert "copy: version 1 (tiny 1.2.3), 4 files as they were registered" in run("fetch", "1", "--out", "copy")[1]
    for table in ("list", "history"):
        assert "the first" in " ".join(run(table)[1].split())
    for refused, reason in (
        (("fetch", "champion", "--out", "copy"), "copy exists; name another folder"),
        (("fetch", "nobody", "--out", "other"), "no alias `nobody`"),
        (("rollback",), "no champion before this one"),
        (("promote",), "run `onesheet data prepare` first"),
        (("register", "nowhere"), "no bundle at nowhere"),
    ):
        code, said = run(*refused)
        assert (code, reason in said) == (1, True)


def test_who_only_looks_makes_no_registry(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_registry(Settings()).versions() == []
    with pytest.raises(UnknownVersionError, match="no alias `champion`; it has none yet"):
        load_bundle("champion")
    assert list(tmp_path.iterdir()) == []


def test_a_version_is_verified_from_its_files_to_answers_under_load(
    register, embedded, tiny_bundle, capsys, monkeypatch
):
    register(embedded, tiny_bundle, alias="challenger")
    run = partial(onesheet, capsys, monkeypatch)
    code, said = run("verify", "--seconds", "1")
    assert (code, said.splitlines()[-1]) == (0, "version 1 (tiny 1.2.3) works")
    assert "files: 4, as they were registered" in said
    assert re.search(r"load: \d+ pictures/s from 4 clients, median \d+ ms, 95 % within \d+ ms", said)
    code, said = run("verify", "1", "--seconds", "1", "--max-p95", "1", "--connections", "16")
    assert code == 1
    assert re.search(r"under load 95 % within \d+ ms, 1 are allowed", said)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda probabilities: probabilities * np.nan, "some of its probabilities are none"),
        (lambda probabilities: probabilities + 1, "some of its probabilities are none"),
        (lambda probabilities: probabilities / len(probabilities), "something else of a picture alone"),
    ],
)
def test_answers_that_make_no_sense_are_found(register, embedded, tiny_bundle, capsys, monkeypatch, change, reason):
    register(embedded, tiny_bundle)
    monkeypatch.setattr(Predictor, "run", spoiled(Predictor.run, change))
    code, said = onesheet(capsys, monkeypatch, "verify", "1")
    assert code == 1
    assert reason in said


def spoiled(run, change):
    """What a predictor's network says, changed."""

    def answer(self, pixels):
        probabilities, embeddings = run(self, pixels)
        return change(probabilities), embeddings

    return answer


def test_every_move_is_told_as_github_wants_it(embedded, receiver, tiny_bundle, next_bundle, capsys, monkeypatch):
    monkeypatch.setenv("ONESHEET_REGISTRY_WEBHOOK", receiver.url)
    monkeypatch.setenv("ONESHEET_REGISTRY_WEBHOOK_TOKEN", "open sesame")
    monkeypatch.setattr("onesheet.webhook._WAITS_SECONDS", ())
    run = partial(onesheet, capsys, monkeypatch)
    run("register", str(tiny_bundle))
    run("register", str(next_bundle), "--no-challenger")
    run("rollback", "--to", "2", "--reason", "so")
    told = [body for _, _, body in receiver.seen]
    assert [body["event_type"] for body in told] == ["onesheet-registry"] * 2
    assert [(body["client_payload"]["kind"], body["client_payload"]["after"]) for body in told] == [
        ("register", 1),
        ("rollback", 2),
    ]
    assert told[1]["client_payload"]["model"] == {"name": "tiny", "version": "2.0.0"}
    assert receiver.seen[0][1]["Authorization"] == "Bearer open sesame"

    receiver.statuses = [401]
    code, said = run("rollback", "--to", "1")
    assert code == 1
    assert "version 1 (tiny 1.2.3) is the champion again" in said  # it is done all the same
    assert "ONESHEET_REGISTRY_WEBHOOK was not told: it answers with status 401" in said


def test_a_webhook_that_cannot_be_told_is_refused_before_anything_moves(
    embedded, register, tiny_bundle, next_bundle, capsys, monkeypatch
):
    register(embedded, tiny_bundle, alias="champion")
    register(embedded, next_bundle)
    monkeypatch.setenv("ONESHEET_REGISTRY_WEBHOOK", "hooks.example/hunter2")
    for command in (("rollback", "--to", "2"), ("register", str(next_bundle)), ("promote", "2")):
        code, said = onesheet(capsys, monkeypatch, *command)
        assert (code, "ONESHEET_REGISTRY_WEBHOOK must be an http:// or https:// address" in said) == (2, True)
        assert "hunter2" not in said
    assert onesheet(capsys, monkeypatch, "list")[0] == 0
    assert (embedded.aliases(), len(embedded.versions())) == ({"champion": 1}, 2)


def test_a_number_without_a_name_may_act_too(register, embedded, tiny_bundle, monkeypatch):
    """As in a container that runs as any user."""
    monkeypatch.delenv("ONESHEET_ACTOR")
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    assert register(open_registry(Settings()), tiny_bundle).by == f"user {os.getuid()}"
