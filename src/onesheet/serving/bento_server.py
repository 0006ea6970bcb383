"""Run the API under BentoML's own server."""

from __future__ import annotations

import importlib.util
import os
from contextlib import closing
from typing import TYPE_CHECKING, Final

import structlog
from pydantic import SecretStr

from onesheet.errors import InvalidRequestError, MissingExtraError
from onesheet.listening import address_of, listen
from onesheet.log import configure_logging
from onesheet.processes import become
from onesheet.serving.preflight import check_service

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from onesheet.settings import Settings

ARBITER_VARIABLE: Final = "ONESHEET_BENTOML_ARBITER"
"""Environment variable with the process ID of BentoML's parent process, which its workers end with."""

_SERVICE: Final = "onesheet.serving.bento_app:Onesheet"

logger: FilteringBoundLogger = structlog.get_logger(__name__)


def serve_with_bentoml(settings: Settings) -> None:
    """Become `bentoml serve`, with these settings; does not return.

    Args:
        settings: As for `onesheet.serving.serve`.

    Raises:
        MissingExtraError: BentoML is not installed.
        InvalidRequestError: The settings want a port for operators, or one of them is wrong.
        OnesheetError: Nothing can listen on this address.
    """
    if importlib.util.find_spec("bentoml") is None:
        raise MissingExtraError("this engine needs BentoML: install onesheet[bento]")
    if settings.admin_port is not None:
        raise InvalidRequestError("BentoML listens on one port; ONESHEET_ADMIN_PORT is for --engine fastapi")
    configure_logging(settings.log_level, as_json=settings.log_json)
    check_service(settings)
    # BentoML says less clearly what is wrong with an address, and takes no port 0.
    with closing(listen(settings.host, settings.port)) as listener:
        port = listener.getsockname()[1]
        logger.info("listening", url=address_of(listener), workers=settings.workers, engine="bentoml")
    own = {"BENTOML_DO_NOT_TRACK": "true", ARBITER_VARIABLE: str(os.getpid())}
    environment = {**os.environ, **_as_environment(settings), **own}
    become("bentoml", "serve", _SERVICE, "--host", settings.host, "--port", str(port), environment=environment)


def _as_environment(settings: Settings) -> dict[str, str]:
    """What was set, by whatever means, for processes that read their settings anew."""
    values = {name: getattr(settings, name) for name in settings.model_fields_set}
    return {
        f"ONESHEET_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
        if value is not None
    }
