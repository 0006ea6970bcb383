"""Requests that change something, made before they are sent, so that they can be shown instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf import json_format

from onesheet.cloud import transfer
from onesheet.cloud.google import Google
from onesheet.errors import CloudError

if TYPE_CHECKING:
    from google.api_core import exceptions

Result = dict[str, Any]


class Step(Protocol):
    """Something that is done in the cloud."""

    @property
    def what(self) -> str:
        """It is about, in a few words."""

    def shown(self) -> dict[str, Any]:
        """All of it as JSON."""

    def send(self, google: Google) -> Any:
        """Do it.

        Raises:
            CloudError: It was refused or failed.
        """


@dataclass(frozen=True)
class Call:
    """A request to one of Google's services.

    Attributes:
        what: It is about.
        api: The service, as `Google` calls it.
        rpc: The method.
        request: Of the method's own type.
        tolerates: An error that means that nothing is to be done, such as `AlreadyExists`.
        otherwise: What is to be done then after all.
        wait: For what it sets going.
    """

    what: str
    api: str
    rpc: str
    request: Any
    tolerates: type[exceptions.GoogleAPICallError] | None = None
    otherwise: Call | None = None
    wait: bool = True

    def shown(self) -> dict[str, Any]:
        """As JSON, the request as Google's own JSON."""
        shown = {"call": f"{self.api}.{self.rpc}", "type": _type_name(self.request), "request": as_json(self.request)}
        return {**shown, "if it is there": self.otherwise.shown()} if self.otherwise else shown

    def send(self, google: Google) -> Any:
        """The answer; None if the error that is tolerated came instead.

        Raises:
            CloudError: It was refused or failed.
        """
        try:
            return google.call(self.api, self.rpc, self.request, wait=self.wait)
        except CloudError as error:
            if self.tolerates is None or not isinstance(error.__cause__, self.tolerates):
                raise CloudError(f"{self.what}: {error.message}") from error
        return self.otherwise.send(google) if self.otherwise else None


@dataclass(frozen=True)
class Upload:
    """A file or folder that goes into the bucket, as far as it is not there.

    Attributes:
        what: It is.
        source: File or folder.
        address: Where it goes.
        on_file: Called with (done, total).
    """

    what: str
    source: Path
    address: str
    on_file: Callable[[int, int | None], None] | None = None

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {"upload": str(self.source), "to": self.address}

    def send(self, google: Google) -> transfer.Transferred:  # noqa: ARG002  # a step like all others
        """Send it.

        Raises:
            TransferError: It did not arrive.
        """
        return transfer.upload(self.source, self.address, self.on_file)


def run_steps(google: Google, steps: Iterable[Step], on_step: Callable[[str], None]) -> list[Any]:
    """Do one after the other.

    Args:
        google: The project.
        steps: In their order; each may be done again.
        on_step: Called with what was done.

    Returns:
        Their answers.

    Raises:
        CloudError: One was refused or failed; those before it are done.
    """
    answers = []
    for step in steps:
        answers.append(step.send(google))
        on_step(step.what)
    return answers


def as_json(message: Any) -> Result:
    """A message of Google's as its JSON, fields that are not set left out."""
    found: Result = json_format.MessageToDict(raw(message))
    return found


def raw(message: Any) -> Any:
    """The protobuf message in one of proto-plus."""
    return type(message).pb(message) if hasattr(type(message), "pb") else message


def _type_name(message: Any) -> str:
    return str(raw(message).DESCRIPTOR.full_name)
