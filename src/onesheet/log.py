"""The one set-up of logging: structlog, to standard error, so that standard output stays data."""

from __future__ import annotations

import logging
import sys
from typing import Final

import structlog

# Libraries that tell of every step at the level where we tell of every request.
CHATTY: Final = ("alembic", "httpx", "uvicorn.access")


def configure_logging(level: str = "info", *, as_json: bool = False) -> None:
    """Send structlog and the standard library's loggers to standard error in one format.

    Args:
        level: Least level that is shown: debug, info, warning or error.
        as_json: One JSON object a line, instead of text for a terminal.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
