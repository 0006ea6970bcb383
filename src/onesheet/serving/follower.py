"""A service that answers with whatever version an alias of the registry stands for."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from onesheet.errors import OnesheetError, RegistryError
from onesheet.refs import REGISTRY_PREFIX
from onesheet.registry import open_registry
from onesheet.serving.background import in_daemon

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from onesheet.settings import Settings

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class AliasFollower:
    """Looks whether an alias has moved.

    Args:
        settings: The bundle is the alias; and where the registry is.
    """

    def __init__(self, settings: Settings) -> None:
        self._alias = settings.bundle.removeprefix(REGISTRY_PREFIX)
        self._registry = open_registry(settings)
        self._seconds = settings.load_seconds
        self._taken: str | None = None

    @property
    def alias(self) -> str:
        """The one that is followed."""
        return self._alias

    async def moved(self) -> str | None:
        """REF of the version that the alias stands for, unless it is the last one that was taken.

        Raises:
            RegistryError: Nobody knows; the log of the service says why.
        """
        try:
            async with asyncio.timeout(self._seconds):
                version = await in_daemon(partial(self._registry.find, self._alias))
        except OnesheetError as error:
            logger.warning("registry not read", alias=self._alias, code=error.code, reason=error.message)
            raise error if isinstance(error, RegistryError) else RegistryError(error.message) from error
        except Exception as error:  # of the registry's library; nothing shall end the following
            logger.exception("registry not read", alias=self._alias)
            raise RegistryError("the registry cannot be read; the server's log says why") from error
        ref = f"{REGISTRY_PREFIX}{version.number}"
        return None if ref == self._taken else ref

    def take(self, ref: str) -> None:
        """This version answers now."""
        logger.info("alias followed", alias=self._alias, version=ref.removeprefix(REGISTRY_PREFIX))
        self._taken = ref
