"""A registry in a file works wherever its folder lies by now: moved, copied, mounted elsewhere, from any folder."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from onesheet.bundle import load_bundle
from onesheet.errors import RegistryError
from onesheet.registry import open_registry
from onesheet.serving import create_app
from onesheet.settings import Settings

# As projects may be called; MLflow writes it into addresses.
ELSEWHERE = "mørk & 100%20 (neu) #2"


@pytest.fixture
def project(empty_registry, register, tiny_bundle, next_bundle, tmp_path) -> Path:
    """A project folder whose registry holds two versions; the second is the champion."""
    database = tmp_path / "project" / "outputs" / "mlflow.db"
    database.parent.mkdir(parents=True)
    with closing(sqlite3.connect(empty_registry)) as store:
        store.execute("VACUUM INTO ?", (str(database),))
    for bundle in (tiny_bundle, next_bundle):
        register(reopened(database), bundle, alias="champion")
    return tmp_path / "project"


def reopened(database: Path, artifacts: str | None = None):
    return open_registry(Settings(registry_url=f"sqlite:///{database}", registry_artifacts=artifacts, actor="bob"))


def places(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as store:
        return {uri for (uri,) in store.execute("SELECT artifact_uri FROM runs")}


def move_all(project: Path) -> Path:
    """`mv project elsewhere`."""
    return Path(shutil.move(project, project.with_name(ELSEWHERE))) / "outputs" / "mlflow.db"


def move_up(project: Path) -> Path:
    """As a container sees it: the database's folder alone, mounted under another name."""
    return Path(shutil.move(project / "outputs", project.with_name(ELSEWHERE))) / "mlflow.db"


def copy(project: Path) -> Path:
    """`cp -r project elsewhere`, and the first stays where it was."""
    return Path(shutil.copytree(project, project.with_name(ELSEWHERE))) / "outputs" / "mlflow.db"


@pytest.mark.parametrize("how", [move_all, move_up, copy])
def test_all_versions_are_there_and_new_ones_come_beside_them(
    project, how, register, tiny_bundle, next_bundle, tmp_path
):
    before = sorted(path for path in project.rglob("*") if path.is_file()) if how is copy else []
    database = how(project)
    moved = reopened(database)

    assert [version.number for version in moved.versions()] == [2, 1]
    assert [move.state for move in moved.history()] == ["done", "done"]
    assert moved.load(moved.find("champion")).files == load_bundle(next_bundle).files
    assert moved.fetch(moved.find("1"), tmp_path / "got").files == load_bundle(tiny_bundle).files
    third = register(moved, tiny_bundle, alias="challenger")
    assert moved.load(third).files == load_bundle(tiny_bundle).files
    assert moved.move(moved.standing("champion"), moved.former_champion(), "rollback", "so").after == 1

    root = database.parent / "registry"
    assert {path.parent.parent.name for path in root.glob("*/artifacts/bundle")} == {
        Path(place).parent.name for place in places(database)
    }
    assert all(place.startswith(root.as_uri()) for place in places(database))  # where MLflow's own pages look
    assert sorted(path for path in project.rglob("*") if path.is_file()) == before


def test_from_another_working_folder(project, register, tiny_bundle, next_bundle, monkeypatch):
    deeper = project / "notebooks" / "today"
    deeper.mkdir(parents=True)
    monkeypatch.chdir(deeper)
    for database in ("../../outputs/mlflow.db", project / "outputs" / "mlflow.db"):
        registry = reopened(Path(database))
        assert registry.load(registry.find("champion")).files == load_bundle(next_bundle).files
        register(registry, tiny_bundle)
    new = reopened(Path("../db/mlflow.db"))
    assert new.load(register(new, tiny_bundle)).files == load_bundle(tiny_bundle).files
    assert [path.name for path in (project / "notebooks" / "db").iterdir() if path.is_dir()] == ["registry"]
    assert list(deeper.iterdir()) == []


def test_bundles_that_lie_elsewhere_by_now_are_found_where_the_setting_says(
    project, register, tiny_bundle, next_bundle, tmp_path
):
    database = move_all(project)
    shutil.move(database.parent / "registry", tmp_path / "disk" / "bundles")
    moved = reopened(database, str(tmp_path / "disk" / "bundles"))
    assert moved.load(moved.find("champion")).files == load_bundle(next_bundle).files
    register(moved, tiny_bundle)
    assert len(list((tmp_path / "disk" / "bundles").iterdir())) == 3
    assert not (database.parent / "registry").exists()


def test_bundles_that_are_nowhere_are_told_with_the_places_and_nothing_is_made(
    project, register, tiny_bundle, tmp_path
):
    database = move_all(project)
    shutil.rmtree(database.parent / "registry")
    moved = reopened(database)
    old = (project / "outputs" / "registry").as_uri()
    for ask in (lambda: moved.load(moved.find("champion")), lambda: register(moved, tiny_bundle)):
        with pytest.raises(RegistryError) as refused:
            ask()
        message = refused.value.message
        assert old in message
        assert str(database) in message
        assert "ONESHEET_REGISTRY_ARTIFACTS" in message
    assert not project.exists()
    assert not any(path.is_dir() for path in database.parent.iterdir())


@pytest.mark.anyio
async def test_a_service_follows_it(project, register, settings, connect, tiny_bundle, monkeypatch):
    database = move_all(project)
    monkeypatch.setenv("ONESHEET_REGISTRY_URL", f"sqlite:///{database}")
    following = settings.model_copy(
        update={"bundle": "champion", "follow_seconds": 0.2, "registry_url": f"sqlite:///{database}"}
    )
    app = create_app(following)
    async with app.router.lifespan_context(app), connect(app) as client:
        for version in ("2.0.0", "1.2.3"):
            with anyio.fail_after(60):
                while (await client.get("/health")).json()["model"] != {"name": "tiny", "version": version}:
                    await anyio.sleep(0.05)
            if version == "2.0.0":
                await anyio.to_thread.run_sync(lambda: register(reopened(database), tiny_bundle, alias="champion"))
    assert not project.exists()
