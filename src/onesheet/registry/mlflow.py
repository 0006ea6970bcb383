"""A registry in MLflow: in a file or database that this process opens itself, or behind a server.

A version of the registered model is a bundle. The artifacts lie in a run of an experiment of their own, together with
what the lineage is known by, so that MLflow's pages show it. The history is a second registered model, each version of
which is a move: MLflow numbers versions by a unique key of its database, so two moves never get the same number,
however many people and machines there are.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from onesheet.errors import MissingExtraError, RegistryError, UnknownVersionError
from onesheet.mlflow_artifacts import as_address, database_file, find_artifacts, local_folder, settle_artifacts
from onesheet.mlflow_store import open_mlflow_store, shown
from onesheet.registry.records import Move, MoveState, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_EXPERIMENT: Final = "onesheet-registry"
# Beside the database, if that is a file.
_ARTIFACTS: Final = "registry"
_RECORD: Final = "onesheet"
_STATE: Final = "state"
_PAGE: Final = 1000


class MlflowStore:
    """A `Store` in MLflow.

    Args:
        url: Of the tracking store, which holds the registry too.
        model: Name of the registered model.
        artifacts: Folder or address for the bundles, where MLflow has no server that knows one.
    """

    def __init__(self, url: str, model: str, artifacts: str | None) -> None:
        self._url = url
        self._model = model
        self._moves = f"{model}.moves"
        self._database = database_file(url)
        self._artifacts = as_address(artifacts) if artifacts else None

    def add(self, folder: Path, version: Version) -> Version:
        """As `Store.add`."""
        lineage = version.lineage
        with self._told() as client:
            run = client.create_run(
                self._experiment, run_name=f"{lineage.model_name} {lineage.model_version}", tags=_texts(version)
            ).info.run_id
            for name, value in lineage.metrics.items():
                client.log_metric(run, name, value)
            client.log_artifacts(run, str(folder))
            client.set_terminated(run)
            made = client.create_model_version(
                self._named(self._model),
                source=f"runs:/{run}/bundle",
                run_id=run,
                tags={**_texts(version), _RECORD: version.model_dump_json(exclude={"number"})},
                description=version.note,
            )
        return version.model_copy(update={"number": int(made.version)})

    def versions(self) -> list[Version]:
        """As `Store.versions`; others than ours, made by hand, are left out."""
        found = (_version(each) for each in self._all_of(self._model))
        return sorted((each for each in found if each), key=lambda each: -each.number)

    def aliases(self) -> dict[str, int]:
        """As `Store.aliases`."""
        if not self._exists:
            return {}
        try:
            with self._told() as client:
                known = client.get_registered_model(self._model)
        except UnknownVersionError:  # nothing was ever registered
            return {}
        return {alias: int(number) for alias, number in known.aliases.items()}

    def set_alias(self, alias: str, number: int | None) -> None:
        """As `Store.set_alias`."""
        with self._told() as client:
            if number is None:
                client.delete_registered_model_alias(self._model, alias)
            else:
                client.set_registered_model_alias(self._model, alias, str(number))

    def fetch(self, number: int, part: str, into: Path) -> Path:
        """As `Store.fetch`."""
        with self._told() as client:
            run = str(client.get_model_version(self._model, str(number)).run_id)
            recorded = str(client.get_run(run).info.artifact_uri)
            if local_folder(recorded) is None:
                return Path(client.download_artifacts(run, part, str(into)))
            artifacts = find_artifacts(recorded, self._database, self._artifacts)
            if artifacts is None or not (artifacts / part).exists():
                raise RegistryError(self._missing(f"the {part} of version {number} is", recorded))
            return _copy(artifacts / part, into / part)

    def moves(self) -> list[Move]:
        """As `Store.moves`."""
        return sorted((_move(each) for each in self._all_of(self._moves)), key=lambda move: move.number)

    def record(self, move: Move) -> int:
        """As `Store.record`."""
        with self._told() as client:
            moved = client.get_model_version(self._model, str(move.after))
            made = client.create_model_version(
                self._named(self._moves),
                source=str(moved.source),
                run_id=moved.run_id,
                tags={_RECORD: move.model_dump_json(exclude={"number", "state"}), _STATE: move.state},
                description=f"{move.by}: {move.kind}, {move.alias} from {move.before} to {move.after}. {move.reason}",
            )
        return int(made.version)

    def conclude(self, number: int, state: MoveState) -> None:
        """As `Store.conclude`."""
        with self._told() as client:
            client.set_model_version_tag(self._moves, str(number), _STATE, state)

    @cached_property
    def _client(self) -> MlflowClient:
        try:
            from mlflow import MlflowClient
        except ModuleNotFoundError as error:
            raise MissingExtraError("the registry needs an extra: pip install 'onesheet[registry]'") from error
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            address = open_mlflow_store(self._url)
            return MlflowClient(address, registry_uri=address)
        except (OSError, SQLAlchemyError, MlflowException) as error:
            raise self._unusable(str(error)) from error

    @cached_property
    def _experiment(self) -> str:
        """Its id; it is made where there is none yet."""
        from mlflow.exceptions import MlflowException

        known = self._client.get_experiment_by_name(_EXPERIMENT)
        if known is None:
            beside = (self._database.parent / _ARTIFACTS).as_uri() if self._database else None
            try:
                return str(self._client.create_experiment(_EXPERIMENT, artifact_location=self._artifacts or beside))
            except MlflowException:
                known = self._client.get_experiment_by_name(_EXPERIMENT)
                if known is None:  # so that it was not that somebody else has made it meanwhile
                    raise
        self._settle(str(known.experiment_id), str(known.artifact_location))
        return str(known.experiment_id)

    def _settle(self, experiment: str, recorded: str) -> None:
        """Let new bundles go where the others are by now, or where the settings say.

        Raises:
            RegistryError: The others are out of reach.
        """
        folder = local_folder(recorded)
        if self._database:
            if missing := settle_artifacts(self._database, _EXPERIMENT, self._artifacts):
                raise RegistryError(self._missing("the bundles registered so far are", missing))
        elif folder and not folder.is_dir() and self._client.search_runs([experiment], max_results=1):
            named = f" (ONESHEET_REGISTRY_ARTIFACTS is {self._artifacts})" if self._artifacts else ""
            raise RegistryError(
                f"the registry at {shown(self._url)} keeps its bundles in {recorded}, which is not on this machine"
                f"{named}: mount or link it there"
            )

    def _missing(self, subject: str, recorded: str) -> str:
        near = f" or near {self._database}" if self._database else ""
        named = f" or in {self._artifacts} (ONESHEET_REGISTRY_ARTIFACTS)" if self._artifacts else ""
        hint = "" if named else "; set ONESHEET_REGISTRY_ARTIFACTS to the folder where the bundles are now"
        return f"{subject} not in {recorded}, as the registry says,{near}{named}{hint}"

    def _named(self, model: str) -> str:
        """The name of a registered model, which is made where there is none yet."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            try:
                self._client.create_registered_model(model)
            except MlflowException as meanwhile:
                if meanwhile.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        return model

    @property
    def _exists(self) -> bool:
        """False for a file that nobody has made yet: who only looks shall not be the one."""
        return self._database is None or self._database.exists()

    def _all_of(self, model: str) -> Iterator[ModelVersion]:
        token = None
        while self._exists:
            with self._told() as client:
                page = client.search_model_versions(f"name='{model}'", max_results=_PAGE, page_token=token)
            yield from page
            if not (token := page.token):
                return

    @contextmanager
    def _told(self) -> Iterator[MlflowClient]:
        """Turn what MLflow says into one line."""
        client = self._client  # first of all, so that a missing package is told as such
        from mlflow.exceptions import MlflowException

        try:
            yield client
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise UnknownVersionError(f"the registry at {shown(self._url)}: {shown(error.message)}") from error
            raise self._unusable(error.message) from error
        except OSError as error:
            raise self._unusable(str(error)) from error

    def _unusable(self, reason: str) -> RegistryError:
        return RegistryError(f"the registry at {shown(self._url)} cannot be used: {shown(reason).splitlines()[0]}")


def _copy(source: Path, target: Path) -> Path:
    """A folder, or a file into a folder that may be new."""
    if source.is_dir():
        return Path(shutil.copytree(source, target))
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))


def _texts(version: Version) -> dict[str, str]:
    """What a reader of MLflow's pages looks for, and can search."""
    lineage = version.lineage.model_dump(mode="json", exclude={"metrics"})
    return {name: str(value) for name, value in lineage.items() if value is not None} | {"registered_by": version.by}


def _version(stored: ModelVersion) -> Version | None:
    try:
        known = Version.model_validate_json(stored.tags[_RECORD])
    except (KeyError, ValidationError):
        return None
    return known.model_copy(update={"number": int(stored.version)})


def _move(stored: ModelVersion) -> Move:
    move = Move.model_validate_json(stored.tags[_RECORD])
    time = datetime.fromtimestamp(stored.creation_timestamp / 1000, UTC)
    return move.model_copy(update={"number": int(stored.version), "state": stored.tags[_STATE], "time": time})
