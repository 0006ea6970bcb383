"""A registry in Weights & Biases, for teams whose runs are there.

A version is an artifact in a collection that is named as the model; aliases are those of W&B. The history is a second
collection, each version of which is a move. W&B numbers the versions of a collection, so two moves never get the same
number, however many people and machines there are. Its numbers begin with v0, ours with 1.

W&B makes artifacts in runs only, so that whatever is registered or moved leaves a short run in the project.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

import httpx
from pydantic import ValidationError

from onesheet.errors import MissingExtraError, OnesheetError, RegistryError, UnknownVersionError, reason
from onesheet.registry.records import Move, MoveState, Version

if TYPE_CHECKING:
    import wandb

_SCHEME: Final = "wandb://"
_BUNDLE: Final = "onesheet-bundle"
_MOVE: Final = "onesheet-move"
_JOB: Final = "onesheet-registry"
# W&B's own: it goes with the newest version by itself.
_LATEST: Final = "latest"
_PAGE: Final = 100
_ANSWER_SECONDS: Final = 10
_UPLOAD_SECONDS: Final = 600

_Record = TypeVar("_Record", Version, Move)


class WandbStore:
    """A `Store` in Weights & Biases.

    Args:
        url: `wandb://ENTITY/PROJECT`, or `wandb://PROJECT` of the account's default entity.
        model: Name of the collection.
    """

    def __init__(self, url: str, model: str) -> None:
        self._url = url
        self._model = model
        self._moves = f"{model}-moves"

    def add(self, folder: Path, version: Version) -> Version:
        """As `Store.add`."""
        return version.model_copy(update={"number": self._keep(self._model, _BUNDLE, version, version.note, folder)})

    def versions(self) -> list[Version]:
        """As `Store.versions`; others than ours, made by hand, are left out."""
        return sorted(self._records(self._model, _BUNDLE, Version), key=lambda version: -version.number)

    def aliases(self) -> dict[str, int]:
        """As `Store.aliases`."""
        stored = self._all_of(self._model, _BUNDLE)
        return {alias: _number(each) for each in stored for alias in each.aliases if alias != _LATEST}

    def set_alias(self, alias: str, number: int | None) -> None:
        """As `Store.set_alias`; W&B itself takes an alias from the version that has it."""
        before = self.aliases().get(alias)
        changed = number or before
        if changed is None or number == before:
            return
        with self._told():
            version = self._one_of(self._model, changed)
            others = [each for each in version.aliases if each != alias]
            version.aliases = [*others, alias] if number else others
            version.save()

    def fetch(self, number: int, part: str, into: Path) -> Path:
        """As `Store.fetch`.

        W&B's client would wait for a silent server without end, and keep what it fetches in the home folder.
        """
        with self._told(), httpx.Client(timeout=_ANSWER_SECONDS, follow_redirects=True) as client:
            files = [each for each in self._one_of(self._model, number).files() if _belongs(each.name, part)]
            for file in files:
                _download(client, file.direct_url, into / file.name)
        if not files:
            raise UnknownVersionError(f"version {number} in the registry at {self._url} has no {part}")
        return into / part

    def moves(self) -> list[Move]:
        """As `Store.moves`."""
        return sorted(self._records(self._moves, _MOVE, Move), key=lambda move: move.number)

    def record(self, move: Move) -> int:
        """As `Store.record`.

        A move that is not the last by the time that it is kept does not count, and is made anew: whoever made the later
        one may have looked at the history before this one was to be seen.
        """
        description = f"{move.by}: {move.kind}, {move.alias} from {move.before} to {move.after}. {move.reason}"
        while True:
            number = self._keep(self._moves, _MOVE, move, description)
            if all(each.number <= number for each in self.moves()):
                return number
            self.conclude(number, "lost")

    def conclude(self, number: int, state: MoveState) -> None:
        """As `Store.conclude`."""
        with self._told():
            move = self._one_of(self._moves, number)
            move.metadata = {**move.metadata, "state": state}
            move.save()

    def _keep(
        self, collection: str, kind: str, record: Version | Move, description: str, folder: Path | None = None
    ) -> int:
        """Make the next version of a collection.

        It holds a file that no other has: W&B makes no version of what it has already.
        """
        entity, project = self._place
        known = record.model_dump(mode="json", exclude={"number"})
        with self._told(), TemporaryDirectory(prefix="onesheet-", ignore_cleanup_errors=True) as scratch:
            import wandb

            file = Path(scratch, f"record-{uuid4().hex}.json")
            file.write_text(record.model_dump_json(exclude={"number"}), encoding="utf-8")
            artifact = wandb.Artifact(collection, kind, description, known)
            artifact.add_file(str(file), skip_cache=True, policy="immutable")
            if folder:
                artifact.add_dir(str(folder), skip_cache=True, policy="immutable")
            with wandb.init(entity=entity, project=project, job_type=_JOB, settings=_silent(scratch)) as run:
                return _number(run.log_artifact(artifact).wait(_UPLOAD_SECONDS))

    def _records(self, collection: str, kind: str, model: type[_Record]) -> Iterator[_Record]:
        """What was kept with each version of a collection, with its number."""
        for stored in self._all_of(collection, kind):
            try:
                record = model.model_validate(stored.metadata)
            except ValidationError:
                continue
            yield record.model_copy(update={"number": _number(stored)})

    def _all_of(self, collection: str, kind: str) -> list[wandb.Artifact]:
        with self._told() as api:
            name = self._named(collection)
            known = api.artifact_collection_exists(name, kind)
            return list(api.artifacts(kind, name, per_page=_PAGE)) if known else []

    def _one_of(self, collection: str, number: int) -> wandb.Artifact:
        with self._told() as api:
            name = f"{self._named(collection)}:v{number - 1}"
            if not api.artifact_exists(name):
                raise UnknownVersionError(f"the registry at {self._url} has no version {number}")
            version: wandb.Artifact = api.artifact(name)
            return version

    def _named(self, collection: str) -> str:
        return "/".join((*self._place, collection))

    @cached_property
    def _place(self) -> tuple[str, str]:
        """Entity and project."""
        entity, _, project = self._url.removeprefix(_SCHEME).strip("/").rpartition("/")
        if not project or "/" in entity:
            raise RegistryError(f"{self._url} is no registry; say {_SCHEME}ENTITY/PROJECT")
        with self._told() as api:
            return entity or str(api.default_entity), project

    @cached_property
    def _api(self) -> wandb.Api:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "a registry in Weights & Biases needs an extra: pip install 'onesheet[wandb]'"
            ) from error
        try:
            return wandb.Api(timeout=_ANSWER_SECONDS)
        except wandb.errors.UsageError as error:
            raise RegistryError(f"the registry at {self._url} needs an account: `wandb login`") from error

    @contextmanager
    def _told(self) -> Iterator[wandb.Api]:
        """Turn what W&B says into one line; what it raises has nothing in common."""
        try:
            yield self._api
        except OnesheetError:
            raise
        except Exception as error:
            raise RegistryError(f"the registry at {self._url} cannot be used: {_reason(error)}") from error


def _number(stored: wandb.Artifact) -> int:
    return int(stored.version.removeprefix("v")) + 1


def _belongs(name: str, part: str) -> bool:
    """Whether a file is the one that is asked for, or in that folder and nowhere else."""
    path = PurePosixPath(name)
    return path.is_relative_to(part) and ".." not in path.parts


def _download(client: httpx.Client, address: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with client.stream("GET", address) as answer, file.open("wb") as out:
        answer.raise_for_status()
        for part in answer.iter_bytes():
            out.write(part)


def _silent(folder: str) -> wandb.Settings:
    """A run beside any that there is, which says and measures nothing, and whose own files go to a folder."""
    import wandb

    return wandb.Settings(
        mode="online",
        reinit="create_new",
        root_dir=folder,
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        init_timeout=_ANSWER_SECONDS,
        finish_timeout=_ANSWER_SECONDS,
    )


def _reason(error: Exception) -> str:
    said = reason(error)
    return "it does not answer" if "did not respond in time" in said else said
