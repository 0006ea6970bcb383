"""What the registry remembers: versions of a bundle with where they come from, and every move of an alias."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

BUNDLE_FOLDER: Final = "bundle"
LINEAGE_FOLDER: Final = "lineage"
MANIFEST: Final = "manifest.parquet"

MoveKind: TypeAlias = Literal["register", "promote", "rollback"]
MoveState: TypeAlias = Literal["begun", "done", "lost"]


class Lineage(BaseModel):
    """Where a bundle comes from."""

    model_config = ConfigDict(frozen=True)

    model_name: str
    model_version: str
    digest: str = Field(description="sha256 of bundle.json, which holds those of all other files.")
    created: datetime
    architecture: str
    bytes: int = Field(description="Of all files together.")
    git_commit: str | None
    fingerprint: str = Field(description="Of the manifest that it was trained on.")
    data_version: str | None = Field(description="DVC's hash of the raw data.")
    run: str | None = Field(description="What the tracking store calls the training run.")
    metrics: dict[str, float] = Field(description="On the test posters, as its bundle.json says.")


class Version(BaseModel):
    """A bundle in the registry."""

    model_config = ConfigDict(frozen=True)

    number: int = 0
    lineage: Lineage
    registered: datetime
    by: str
    note: str
    has_manifest: bool = Field(description="Whether the registry knows which posters it was trained on.")

    def __str__(self) -> str:
        return f"version {self.number} ({self.lineage.model_name} {self.lineage.model_version})"


class Move(BaseModel):
    """An alias goes from one version to another; the moves of all aliases are numbered from 1 on."""

    model_config = ConfigDict(frozen=True)

    kind: MoveKind
    alias: str
    before: int | None
    after: int
    time: datetime
    by: str
    reason: str
    number: int = 0
    state: MoveState = "begun"


class Store(Protocol):
    """Where a registry keeps its versions, its aliases and its history."""

    def add(self, folder: Path, version: Version) -> Version:
        """Keep a folder of `bundle/` and `lineage/` as a new version; it is given its number.

        Raises:
            RegistryError: It cannot be kept.
        """

    def versions(self) -> list[Version]:
        """All versions, newest first."""

    def aliases(self) -> dict[str, int]:
        """What each alias stands for."""

    def set_alias(self, alias: str, number: int | None) -> None:
        """Let an alias stand for a version, or for none."""

    def fetch(self, number: int, part: str, into: Path) -> Path:
        """Copy a folder or file of a version.

        Returns:
            Where it lies.
        """

    def moves(self) -> list[Move]:
        """The history, oldest first."""

    def record(self, move: Move) -> int:
        """Append to the history: of several at a time, each gets a number of its own, in the order of their coming."""

    def conclude(self, number: int, state: MoveState) -> None:
        """Note how a move ended."""
