"""The registry itself: versions come in, aliases move, and whoever is late is told.

An alias is moved in two steps: first the move is appended to the history, which numbers moves one after the other,
then the alias is set. Whoever decided on a move remembers how long the history was; if somebody else's move of the same
alias came in between, the decision was made on what is no longer so, and is given up.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from onesheet.bundle import METADATA_FILE, Bundle, load_bundle
from onesheet.errors import BundleCorruptError, MovedMeanwhileError, RegistryError, UnknownVersionError
from onesheet.refs import CHALLENGER, CHAMPION, REGISTRY_PREFIX
from onesheet.registry.mlflow import MlflowStore
from onesheet.registry.records import (
    BUNDLE_FOLDER,
    LINEAGE_FOLDER,
    MANIFEST,
    Lineage,
    Move,
    MoveKind,
    Store,
    Version,
)

if TYPE_CHECKING:
    from onesheet.settings import Settings

# After this, a move that was begun and not ended is taken for broken off.
_MOVING: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Standing:
    """What an alias stands for, as whoever decides on its next move has seen it.

    Attributes:
        alias: Its name.
        number: The version; None: there is none.
        moves: Length of the history.
    """

    alias: str
    number: int | None
    moves: int


class Registry:
    """Versions of one model.

    Args:
        store: Where they are kept.
        actor: Who acts.
    """

    def __init__(self, store: Store, actor: str) -> None:
        self._store = store
        self._actor = actor

    def register(self, folder: Path, lineage: Lineage, note: str = "") -> Version:
        """Keep a bundle as the newest version.

        Args:
            folder: Holds the bundle in `bundle/`, and what else is known of its making in `lineage/`.
            lineage: Where it comes from.
            note: In words.

        Raises:
            RegistryError: The registry cannot be used.
        """
        has_manifest = (folder / LINEAGE_FOLDER / MANIFEST).is_file()
        version = Version(
            lineage=lineage, registered=datetime.now(UTC), by=self._actor, note=note, has_manifest=has_manifest
        )
        return self._store.add(folder, version)

    def versions(self) -> list[Version]:
        """All of them, newest first."""
        return self._store.versions()

    def aliases(self) -> dict[str, int]:
        """What each alias stands for."""
        return self._store.aliases()

    def history(self) -> list[Move]:
        """Every move of an alias, oldest first."""
        return self._store.moves()

    def find(self, ref: str) -> Version:
        """The version that a number or an alias stands for.

        Raises:
            UnknownVersionError: There is none.
        """
        number = self._number(ref)
        for version in self.versions():
            if version.number == number:
                return version
        raise UnknownVersionError(f"the registry has no version {number}; `onesheet registry list` shows what it has")

    def load(self, version: Version) -> Bundle:
        """Fetch and verify a bundle.

        Raises:
            BundleError: It is not there, or not what was registered.
        """
        with tempfile.TemporaryDirectory(prefix="onesheet-") as scratch:
            return self.fetch(version, Path(scratch, "fetched"))

    def fetch(self, version: Version, out: Path) -> Bundle:
        """Copy the bundle of a version into a new folder.

        Raises:
            BundleError: It is not there, or not what was registered; `out` exists.
        """
        if out.exists():
            raise RegistryError(f"{out} exists; name another folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
            folder = self._store.fetch(version.number, BUNDLE_FOLDER, Path(scratch))
            if digest_of(folder) != version.lineage.digest:
                raise BundleCorruptError(f"{version} is not what was registered: {METADATA_FILE} differs from its hash")
            bundle = load_bundle(folder)
            shutil.move(folder, out)
        return bundle

    def fetch_manifest(self, version: Version, into: Path) -> Path | None:
        """Copy the manifest that a version was trained on; None if it is not known."""
        if not version.has_manifest:
            return None
        into.mkdir(parents=True, exist_ok=True)
        return self._store.fetch(version.number, f"{LINEAGE_FOLDER}/{MANIFEST}", into)

    def standing(self, alias: str) -> Standing:
        """What an alias stands for now, to decide on its next move.

        Raises:
            MovedMeanwhileError: Somebody is moving it at this very moment.
        """
        moves = self.history()
        last = next((move for move in reversed(moves) if move.alias == alias), None)
        if last and last.state == "begun" and datetime.now(UTC) - last.time < _MOVING:
            raise MovedMeanwhileError(f"{last.by} is moving the {alias} to version {last.after}; try again in a minute")
        return Standing(alias, self.aliases().get(alias), moves[-1].number if moves else 0)

    def move(self, standing: Standing, to: Version, kind: MoveKind, reason: str) -> Move:
        """Let an alias stand for another version.

        Args:
            standing: What it stood for when the decision was made.
            to: The version.
            kind: Of the move, for the history.
            reason: For the history.

        Raises:
            MovedMeanwhileError: Somebody else moved it after the decision.
        """
        alias = standing.alias
        move = Move(
            kind=kind,
            alias=alias,
            before=standing.number,
            after=to.number,
            time=datetime.now(UTC),
            by=self._actor,
            reason=reason,
        )
        number = self._store.record(move)
        if other := self._first_between(standing, number):
            self._store.conclude(number, "lost")
            raise MovedMeanwhileError(
                f"{other.by} moved the {alias} from version {other.before} to {other.after} meanwhile, "
                f"so {to} was not compared with what is the {alias} now; try again"
            )
        self._store.set_alias(alias, to.number)
        if alias == CHAMPION and self.aliases().get(CHALLENGER) == to.number:
            self._store.set_alias(CHALLENGER, None)
        self._store.conclude(number, "done")
        return move.model_copy(update={"number": number, "state": "done"})

    def former_champion(self) -> Version:
        """The champion before the promotion that made the present one.

        Raises:
            UnknownVersionError: There is none.
        """
        present = self.aliases().get(CHAMPION)
        for move in reversed(self.history()):
            made_it = move.kind == "promote" and move.alias == CHAMPION and move.after == present
            # One that never said that it was done has set the alias all the same, or this would not be the champion.
            if made_it and move.state != "lost" and move.before is not None:
                return self.find(str(move.before))
        raise UnknownVersionError("there was no champion before this one; `onesheet registry history` shows all moves")

    def _first_between(self, standing: Standing, number: int) -> Move | None:
        """The first move of the alias that came after the decision and before this one, unless it was given up too."""
        for move in self.history():
            if standing.moves < move.number < number and move.alias == standing.alias and move.state != "lost":
                return move
        return None

    def _number(self, ref: str) -> int:
        if ref.isdecimal():
            return int(ref)
        known = self.aliases()
        if ref not in known:
            there_are = f"there are: {', '.join(sorted(known))}" if known else "it has none yet"
            raise UnknownVersionError(f"the registry has no alias `{ref}`; {there_are}")
        return known[ref]


def open_registry(settings: Settings) -> Registry:
    """The registry of the settings; it is opened when it is first asked."""
    return Registry(_store(settings), settings.actor or _user())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that nobody has
        return f"user {os.getuid()}"


def _store(settings: Settings) -> Store:
    if settings.registry_url.startswith("wandb://"):
        from onesheet.registry.wandb import WandbStore

        return WandbStore(settings.registry_url, settings.registry_model)
    return MlflowStore(settings.registry_url, settings.registry_model, settings.registry_artifacts)


def load_registered(ref: str) -> Bundle:
    """The bundle that such a REF means, from the registry of the settings.

    Raises:
        BundleError: It is not there.
    """
    from onesheet.settings import Settings

    registry = open_registry(Settings())
    return registry.load(registry.find(ref.removeprefix(REGISTRY_PREFIX)))


def digest_of(folder: Path) -> str:
    """Of a bundle in a folder: the sha256 of its bundle.json, which holds those of all other files.

    Raises:
        BundleCorruptError: It has none.
    """
    try:
        return hashlib.sha256((folder / METADATA_FILE).read_bytes()).hexdigest()
    except OSError as error:
        raise BundleCorruptError(f"the bundle holds no {METADATA_FILE}") from error
