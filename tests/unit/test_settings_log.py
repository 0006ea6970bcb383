"""Settings come from the environment and a `.env` file; the log goes to standard error in one format."""

from __future__ import annotations

import io
import json
import logging
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from pydantic import ValidationError

from onesheet.log import configure_logging
from onesheet.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("clean_environment")


def test_the_defaults_work_right_after_install() -> None:
    settings = Settings()

    assert (settings.bundle, settings.host, settings.port) == ("starter", "127.0.0.1", 8000)
    assert (settings.threads, settings.log_level, settings.log_json) == (None, "info", False)
    assert settings.max_upload_bytes == 20 * 2**20
    assert settings.max_pixels == 25_000_000


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("BUNDLE", "models/mine", "models/mine"),
        ("HOST", "0.0.0.0", "0.0.0.0"),  # noqa: S104
        ("PORT", "0", 0),
        ("MAX_UPLOAD_BYTES", "1000", 1000),
        ("MAX_PIXELS", "1000", 1000),
        ("THREADS", "3", 3),
        ("LOG_LEVEL", "debug", "debug"),
        ("LOG_JSON", "true", True),
        ("LOG_JSON", "0", False),
    ],
)
def test_each_setting_has_a_name_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, read: object
) -> None:
    monkeypatch.setenv(f"ONESHEET_{name}", value)

    assert getattr(Settings(), name.lower()) == read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("MAX_UPLOAD_BYTES", "0"),
        ("MAX_PIXELS", "0"),
        ("THREADS", "0"),
        ("THREADS", "many"),
        ("LOG_LEVEL", "loud"),
        ("LOG_LEVEL", "info\nx"),
        ("LOG_JSON", "perhaps"),
    ],
)
def test_a_value_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"ONESHEET_{name}", value)

    with pytest.raises(ValidationError):
        Settings()


def test_options_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("ONESHEET_BUNDLE=file\nONESHEET_HOST=file\nONESHEET_PORT=1\nOTHER=ignored\n")
    monkeypatch.setenv("ONESHEET_HOST", "environment")
    monkeypatch.setenv("ONESHEET_PORT", "2")

    settings = Settings(port=3)

    assert (settings.bundle, settings.host, settings.port) == ("file", "environment", 3)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------- log


@pytest.fixture
def logged() -> Iterator[Callable[..., io.StringIO]]:
    """`logged(level, as_json=True)`: sets up the log; what it returns fills with what is logged."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level

    def configured(level: str = "info", *, as_json: bool = False) -> io.StringIO:
        stream = io.StringIO()
        with redirect_stderr(stream):
            configure_logging(level, as_json=as_json)
        return stream

    yield configured
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_from_both_kinds_of_logger(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(as_json=True)

    with structlog.contextvars.bound_contextvars(request_id="abc"):
        structlog.get_logger().info("ours", n=1, text="two\nlines")
        logging.getLogger("a.library").warning("theirs %s", "too")

    ours, theirs = lines(stream)
    assert ours.pop("timestamp").endswith("Z")
    assert theirs.pop("timestamp").endswith("Z")
    assert ours == {"event": "ours", "level": "info", "request_id": "abc", "n": 1, "text": "two\nlines"}
    assert theirs == {"event": "theirs too", "level": "warning", "request_id": "abc"}


def test_an_exception_is_logged_with_its_traceback(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(as_json=True)

    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")
        logging.getLogger("a.library").exception("failed")

    for line in lines(stream):
        assert line["level"] == "error"
        assert "Traceback" in line["exception"]
        assert "by nothing" in line["exception"]


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
@pytest.mark.parametrize("kind", ["structlog", "logging"])
def test_less_than_the_level_is_not_shown(
    logged: Callable[..., io.StringIO], level: str, shown: int, kind: str
) -> None:
    stream = logged(level, as_json=True)
    logger = structlog.get_logger() if kind == "structlog" else logging.getLogger("a.library")

    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)(name)

    assert [line["event"] for line in lines(stream)] == ["debug", "info", "warning", "error"][4 - shown :]


def test_text_for_people_has_no_colours_in_a_file(logged: Callable[..., io.StringIO]) -> None:
    stream = logged()

    structlog.get_logger().info("model ready", seconds=0.5)

    (line,) = stream.getvalue().splitlines()
    assert "model ready" in line
    assert "seconds=0.5" in line
    assert "\x1b" not in line


def test_to_set_it_up_twice_logs_once(logged: Callable[..., io.StringIO]) -> None:
    first = logged(as_json=True)
    second = logged(as_json=True)

    structlog.get_logger().info("once")

    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_standard_output_stays_data(logged: Callable[..., io.StringIO], capsys: pytest.CaptureFixture[str]) -> None:
    logged()

    structlog.get_logger().error("a line")

    assert capsys.readouterr().out == ""


def test_an_empty_value_counts_as_not_set(monkeypatch):
    """Workflows and compose files pass on what may not be set."""
    monkeypatch.setenv("ONESHEET_REGISTRY_WEBHOOK", "")
    monkeypatch.setenv("ONESHEET_WORKERS", "")
    settings = Settings()
    assert (settings.registry_webhook, settings.workers) == (None, 1)
