"""Artifacts of an MLflow store that is a file: found, and kept, relative to that file.

MLflow's database holds absolute paths. They no longer fit once the project is moved or copied, or is mounted elsewhere
in a container.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

SQLITE: Final = "sqlite:///"
LOCK_SECONDS: Final = 60
# The end of a run's folder of artifacts that identifies it: RUN_ID/artifacts.
_RUN_PARTS: Final = 2

_EXPERIMENTS: Final = "SELECT experiment_id, name, artifact_location FROM experiments"
_RUNS: Final = "SELECT run_uuid, artifact_uri, status FROM runs WHERE experiment_id = ? ORDER BY start_time DESC"
_MOVE_RUN: Final = "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?"
_MOVE_EXPERIMENT: Final = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"


def database_file(uri: str) -> Path | None:
    """Path of the SQLite file of a store, absolute; None: it is another database or a server."""
    if not uri.startswith(SQLITE):
        return None
    return Path(uri.removeprefix(SQLITE).partition("?")[0]).resolve()


def as_address(place: str) -> str:
    """A folder as an absolute `file://` URI, an address as it is."""
    return place if "://" in place else Path(place).resolve().as_uri()


def local_folder(uri: str) -> Path | None:
    """The folder that an artifact URI names; None: it is not on this machine."""
    parsed = urlparse(uri)
    if parsed.scheme == "file":
        return Path(url2pathname(parsed.path))
    return None if parsed.scheme else Path(uri)


def find_artifacts(uri: str, database: Path | None, named: str | None = None) -> Path | None:
    """Find where the artifacts of a run are now.

    A copied project has its own artifacts: those near the database come before those at the recorded path.

    Args:
        uri: Of the artifacts, as the database holds it: `…/RUN_ID/artifacts`.
        database: SQLite file of the store, if it is one.
        named: Folder or address that the user says holds the artifacts.

    Returns:
        The folder; None: it is in none of these places, or not on this machine.
    """
    recorded = local_folder(uri)
    if recorded is None:
        return None
    holding = local_folder(named) if named else None
    bases = [*([holding] if holding else []), *(database.parents if database else [])]
    return _moved(recorded, bases) or (recorded if recorded.is_dir() else None)


def settle_artifacts(database: Path, experiment: str | None = None, named: str | None = None) -> str | None:
    """Let MLflow read and write the artifacts of a store where they are now, before anything is written to it.

    Args:
        database: SQLite file of the store.
        experiment: Name of the one that is about to be written to.
        named: Address for its new artifacts; default: where its artifacts are.

    Returns:
        The address for new artifacts of the experiment, if it is a folder that is missing while earlier runs' artifacts
        are not near the database either: nothing should be written there. Else None.
    """
    missing = None
    with closing(sqlite3.connect(database, timeout=LOCK_SECONDS)) as store, store:
        for number, name, location in store.execute(_EXPERIMENTS).fetchall():
            runs = [
                _Run(run, uri, status, find_artifacts(uri, database, named))
                for run, uri, status in store.execute(_RUNS, (number,))
            ]
            now = named if named and name == experiment else _location(location, runs, database)
            if now is None and name == experiment:
                missing = location
            moved = [(run.settled(location, now), run.id) for run in runs if run.settled(location, now) != run.uri]
            store.executemany(_MOVE_RUN, moved)
            if now not in {None, location}:
                store.execute(_MOVE_EXPERIMENT, (now, number))
    return missing


class _Run(NamedTuple):
    """A row of MLflow's database, and where its artifacts were found."""

    id: str
    uri: str
    status: str
    found: Path | None

    def settled(self, location: str, now: str | None) -> str:
        """Address of its artifacts; of a run that may still write its first one, below its experiment's."""
        if self.found:
            return self.uri if self.found == local_folder(self.uri) else self.found.as_uri()
        may_begin = self.status != "FINISHED" and local_folder(self.uri) and self.uri.startswith(location)
        return f"{now}{self.uri.removeprefix(location)}" if now and may_begin else self.uri


def _location(location: str, runs: Sequence[_Run], database: Path) -> str | None:
    """Where an experiment's artifacts are: with those of its newest run that has any; None: nobody knows."""
    recorded = local_folder(location)
    if recorded is None or recorded.is_relative_to(database.parent):
        return location
    for run in runs:
        if run.found and run.uri.startswith(location):
            folder = run.found.parents[_RUN_PARTS - 1]
            return location if folder == recorded else folder.as_uri()
    if recorded.is_dir():
        return location
    return None if runs else (database.parent / recorded.name).as_uri()


def _moved(recorded: Path, bases: Iterable[Path]) -> Path | None:
    """The folder below one of the bases whose path ends as the recorded one, the longest such end first."""
    parts = recorded.parts[1:]
    for base in bases:
        for start in range(len(parts) - _RUN_PARTS + 1):
            if (folder := base.joinpath(*parts[start:])).is_dir():
                return folder
    return None
