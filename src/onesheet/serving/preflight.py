"""Checks of the settings before a service starts: what can never work, or would leave it open, is refused."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from onesheet.errors import InvalidRequestError
from onesheet.predictionlog import PredictionLog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from onesheet.settings import Settings

_OF_OTHER_COMMANDS: Final = frozenset({"actor", "api_key", "api_url", "data_source", "feedback_for_training"})
_PREFIXES_OF_OTHERS: Final = ("cloud_", "drift_", "registry_webhook", "ui_")
# That no waiting changes; a mounted bucket may be away for a moment.
_LASTING: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})

logger: FilteringBoundLogger = structlog.get_logger(__name__)


def check_access(settings: Settings) -> None:
    """Check all settings of the API, and that it is not open by mistake.

    Raises:
        InvalidRequestError: A value is wrong, or there is a key for the page and none that the API accepts.
    """
    used = (name for name in type(settings).model_fields if name not in _OF_OTHER_COMMANDS)
    settings.check(name for name in used if not name.startswith(_PREFIXES_OF_OTHERS))
    if settings.problem("api_key") is None and settings.api_key and not settings.api_keys:
        raise InvalidRequestError(
            "ONESHEET_API_KEY is the key that the web page sends; without ONESHEET_API_KEYS the API would be open to "
            "everybody. Set ONESHEET_API_KEYS to the SHA-256 digests of the accepted keys (`onesheet key` makes both), "
            "or remove ONESHEET_API_KEY"
        )


def check_service(settings: Settings) -> None:
    """Check what the API was told before it listens, and log what is ignored.

    Raises:
        InvalidRequestError: As `check_access` does; or the log's URL or the folder of the pictures can never work.
        MissingExtraError: The driver of the log's database is not installed.
    """
    check_access(settings)
    open_log(settings).close()
    if settings.keep_pictures:
        _check_folder(settings.keep_pictures)
    for text in settings.warnings(["port", "admin_port"]):
        logger.warning("setting ignored", reason=text)


def open_log(settings: Settings) -> PredictionLog:
    """The prediction log that the settings name; connects to nothing yet.

    Raises:
        InvalidRequestError: Its URL can never work; the message names the variable.
        MissingExtraError: The driver of its database is not installed.
    """
    try:
        return PredictionLog(settings.log_url)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"ONESHEET_LOG_URL: {error.message}") from error


def _check_folder(folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"ONESHEET_KEEP_PICTURES: no pictures can be kept in {folder}: {error.strerror}"
        if error.errno in _LASTING:
            raise InvalidRequestError(reason) from error
        logger.warning("pictures may be lost", reason=reason)
