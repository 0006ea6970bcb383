"""A client for each test, and a log that can be read."""

from __future__ import annotations

import io
import json
import logging
from contextlib import asynccontextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog

from onesheet.log import configure_logging
from onesheet.serving import create_app
from onesheet.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from fastapi import FastAPI

    from onesheet.predictor import Predictor


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(tiny_bundle: Path) -> Settings:
    return Settings(_env_file=None, bundle=str(tiny_bundle), max_upload_bytes=100_000)


@pytest.fixture
def connect() -> Callable[[FastAPI], AbstractAsyncContextManager[httpx.AsyncClient]]:
    """`async with connect(app) as client`; the application's lifespan does not run."""

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://onesheet.test") as client:
            yield client

    return opened


@pytest.fixture
async def client(settings: Settings, predictor: Predictor, connect: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API whose model is ready."""
    async with connect(create_app(settings, predictor)) as opened:
        yield opened


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Undo what `configure_logging` does to the whole process."""
    root, httpx_logger = logging.getLogger(), logging.getLogger("httpx")
    level = root.level
    httpx_logger.setLevel("WARNING")  # the client's own lines are not the service's
    yield
    # Only its handler goes: pytest comes and goes with its own between set-up, call and tear-down.
    root.handlers = [handler for handler in root.handlers if type(handler) is not logging.StreamHandler]
    root.setLevel(level)
    httpx_logger.setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture
def read_log(restored_logging: None) -> Callable[[], list[dict[str, Any]]]:
    """Call it for all the lines that were logged."""
    stream = io.StringIO()
    with redirect_stderr(stream):
        configure_logging(as_json=True)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
