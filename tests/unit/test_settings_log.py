"""Settings come from the environment and a `.env` file; the log goes to standard error in one format."""

from __future__ import annotations

import io
import json
import logging
import pickle
import re
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from pydantic import ValidationError

from onesheet.errors import InvalidRequestError, MissingExtraError
from onesheet.log import configure_logging
from onesheet.serving.preflight import check_service
from onesheet.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("clean_environment")


def test_the_defaults_work_right_after_install() -> None:
    settings = Settings()

    assert (settings.bundle, settings.host, settings.port) == ("starter", "127.0.0.1", 8000)
    assert (settings.threads, settings.log_level, settings.log_json) == (None, "info", False)
    assert settings.max_upload_bytes == 20 * 2**20
    assert settings.max_pixels == 25_000_000


DOCUMENTED = re.findall(r"^\| `ONESHEET_(\w+)`", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
# Whatever a setting is, it takes one of these.
VALUES = ("3", "10", "0.5", "answer", "true", "warning", "int8", "https://films.example", "10.0.0.1", "a" * 64)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_documented_setting_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "FOLLOW_SECONDS":
        monkeypatch.setenv("ONESHEET_BUNDLE", "champion")  # there is nothing else to follow
    usual, taken = getattr(Settings(), name.lower()), []
    for value in VALUES:
        monkeypatch.setenv(f"ONESHEET_{name}", value)
        with suppress(InvalidRequestError):
            taken.append(getattr(Settings(), name.lower()))
    assert [value for value in taken if value != usual]


def test_numbers_and_switches_are_read_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESHEET_PORT", "0")
    monkeypatch.setenv("ONESHEET_LOG_JSON", "0")
    assert (Settings().port, Settings().log_json) == (0, False)
    monkeypatch.setenv("ONESHEET_LOG_JSON", "true")
    assert Settings().log_json is True


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("PORT", "-1", "at least 0"),
        ("PORT", "65536", "at most 65535"),
        ("PORT", "http", "an integer"),
        ("MAX_UPLOAD_BYTES", "0", "greater than 0"),
        ("MAX_PIXELS", "0", "greater than 0"),
        ("THREADS", "0", "at least 1"),
        ("THREADS", "many", "an integer"),
        ("LOG_SECONDS", "inf", "a finite number"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("LOG_LEVEL", "info\nx", "'debug', 'info', 'warning' or 'error'"),
        ("LOG_JSON", "perhaps", "true or false"),
    ],
)
def test_a_value_out_of_range_is_refused_where_it_is_used(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, rule: str
) -> None:
    monkeypatch.setenv(f"ONESHEET_{name}", value)

    settings = pickle.loads(pickle.dumps(Settings()))  # noqa: S301 - as worker processes get it

    assert settings.bundle == "starter"
    with pytest.raises(InvalidRequestError) as refused:
        getattr(settings, name.lower())
    assert str(refused.value) == f"ONESHEET_{name} must be {rule}, got {value!r}"


def test_a_value_that_two_variables_may_hold_is_refused_with_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLIT_SERVER_BASE_URL_PATH", "a b")
    names = "ONESHEET_UI_BASE_PATH or STREAMLIT_SERVER_BASE_URL_PATH"
    with pytest.raises(InvalidRequestError, match=f"^{names} must be a path such as /films, got 'a b'$"):
        _ = Settings().ui_base_path


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("API_KEYS", f" {'A' * 64}, {'b' * 64},", f"{'a' * 64},{'b' * 64}"),
        ("CORS_ORIGINS", "https://a.example/, http://localhost:3000", "https://a.example,http://localhost:3000"),
        ("CORS_ORIGINS", "*", "*"),
        ("TRUSTED_PROXIES", "10.0.0.1, 10.0.0.0/8, fd00::/8, *", "10.0.0.1,10.0.0.0/8,fd00::/8,*"),
        ("LOG_URL", "postgres://u:p%40ss@host/db?sslmode=require\n", "postgresql://u:p%40ss@host/db?sslmode=require"),
        ("REGISTRY_URL", "postgres://u@host/db", "postgresql://u@host/db"),
    ],
)
def test_values_are_read_as_they_are_written_elsewhere(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, read: str
) -> None:
    monkeypatch.setenv(f"ONESHEET_{name}", value)
    assert getattr(Settings(), name.lower()) == read


@pytest.mark.parametrize("token", ["secret", "secret\n", "  secret\r\n"])
def test_a_token_from_a_file_ends_without_its_line_break(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("ONESHEET_ADMIN_TOKEN", token)
    found = Settings().admin_token
    assert found
    assert found.get_secret_value() == "secret"


def test_a_file_may_begin_with_a_byte_order_mark() -> None:
    Path(".env").write_bytes(f"\ufeffONESHEET_API_KEYS={'a' * 64}\n".encode())
    assert Settings().api_keys == "a" * 64


def test_options_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("ONESHEET_BUNDLE=file\nONESHEET_HOST=file\nONESHEET_PORT=1\nOTHER=ignored\n")
    monkeypatch.setenv("ONESHEET_HOST", "environment")
    monkeypatch.setenv("ONESHEET_PORT", "2")

    settings = Settings(port=3)

    assert (settings.bundle, settings.host, settings.port) == ("file", "environment", 3)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


# -------------------------------------------------------------------------------- what a service checks at its start


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("API_KEY", "secret", "ONESHEET_API_KEY is the key that the web page sends; without ONESHEET_API_KEYS"),
        ("API_KEYS", "plainkey", "ONESHEET_API_KEYS must list SHA-256 digests of keys"),
        ("API_KEYS", f"{'a' * 64},{'b' * 63}", "entry 2 is something else (63 characters, not shown)"),
        ("API_KEYS", " , ", "ONESHEET_API_KEYS must list digests of keys; remove the variable"),
        ("ADMIN_TOKEN", " ", "ONESHEET_ADMIN_TOKEN is blank"),
        ("CORS_ORIGINS", "example.com", "ONESHEET_CORS_ORIGINS must list origins such as https://example.com"),
        ("CORS_ORIGINS", "https://a.example/page", "without a path, got 'https://a.example/page'"),
        ("CORS_ORIGINS", "https://*.example.com", "a * within an origin is not supported"),
        ("TRUSTED_PROXIES", "traefik", "ONESHEET_TRUSTED_PROXIES must list addresses or networks"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "got '10.0.0.1/8': 10.0.0.1/8 has host bits set"),
        ("RATE_LIMIT", "60/minute", "ONESHEET_RATE_LIMIT must be an integer, got '60/minute'"),
        ("FOLLOW_SECONDS", "30", "ONESHEET_FOLLOW_SECONDS only an alias of the registry can be followed"),
        ("OTLP_ENDPOINT", "collector:4317", "ONESHEET_OTLP_ENDPOINT must be an http:// or https:// address"),
        ("LOG_URL", "log.db", "the address of the prediction log is no SQLAlchemy URL"),
        ("LOG_URL", "mysql://u:hunter2@host/db", "in SQLite or PostgreSQL, not in mysql"),
        ("LOG_URL", "bolt://u:hunter2@host/db", "in SQLite or PostgreSQL, not in bolt"),
        ("LOG_URL", "sqlite+aiosqlite:///x.db", "cannot use the driver aiosqlite"),
        ("LOG_URL", "postgresql+asyncpg://u:hunter2@host/db", "cannot use the driver asyncpg"),
        ("LOG_URL", "postgresql://u:hunter2@host:port/db", "is no SQLAlchemy URL"),
        ("LOG_URL", "postgresql://u:hunter2@host/db?sslmode=yes", "sslmode of the prediction log must be one of"),
        ("LOG_URL", "postgresql://u:hunter2@host/db?ssl=true", "has an unknown option"),
        ("LOG_URL", "sqlite://log.db", "names a host, log.db; a SQLite file has three slashes"),
        ("LOG_URL", "sqlite:///.", "the prediction log . is a folder"),
        ("KEEP_PICTURES", "/dev/null", "no pictures can be kept in /dev/null: "),
    ],
)
def test_a_service_refuses_what_can_never_work(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(f"ONESHEET_{name}", value)

    with pytest.raises(InvalidRequestError) as refused:
        check_service(Settings())

    assert told in str(refused.value)
    assert f"ONESHEET_{name}" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_URL", "postgres://u:p%40ss@nowhere.invalid/db?sslmode=require"),  # is down, perhaps for a moment
        ("LOG_URL", "sqlite:////nowhere/log.db"),
        ("KEEP_PICTURES", "kept/pictures"),
        ("UI_PORT", "x"),  # of another command
        ("API_KEY", ""),
    ],
)
def test_a_service_starts_with_what_may_work_later_or_is_not_its_own(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"ONESHEET_{name}", value)
    check_service(Settings())


def test_the_driver_of_postgresql_is_asked_for_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESHEET_LOG_URL", "postgres://u@host/db")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"install onesheet\[postgres\]"):
        check_service(Settings())


def test_service_links_of_kubernetes_are_told_and_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pod beside a Service called `onesheet` has them; the same for onesheet-ui, -drift and -admin."""
    address = "tcp://10.96.14.7:8000"
    monkeypatch.setenv("ONESHEET_SERVICE_HOST", "10.96.14.7")
    for name in ("SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8000_TCP_PORT"):
        monkeypatch.setenv(f"ONESHEET_{name}", "8000")
    for name in ("PORT", "PORT_8000_TCP", "UI_PORT", "DRIFT_PORT", "ADMIN_PORT", "API_PORT"):
        monkeypatch.setenv(f"ONESHEET_{name}", address)

    settings = Settings()

    check_service(settings)
    assert (settings.port, settings.ui_port, settings.drift_port, settings.admin_port) == (8000, 8501, 8002, None)
    first, second = settings.warnings(["port", "admin_port"])
    assert first.startswith(
        f"ONESHEET_PORT={address} is a service link of Kubernetes and is ignored: listening on 8000"
    )
    assert "enableServiceLinks: false" in first
    assert second.startswith(f"ONESHEET_ADMIN_PORT={address}")
    assert Settings(port=9000, admin_port=9001).warnings(["port", "admin_port"]) == []


def test_misspelt_variables_are_told_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESHEET_LOGURL", "sqlite:///x.db")
    monkeypatch.setenv("ONESHEET_log_json", "true")  # read as well as in capitals
    Path(".env").write_text("ONESHEET_APIKEYS=x\nONESHEET_POSTERS=/posters\n")
    assert Settings().warnings([]) == [
        "ONESHEET_APIKEYS is no setting and is ignored; did you mean ONESHEET_API_KEYS?",
        "ONESHEET_LOGURL is no setting and is ignored; did you mean ONESHEET_LOG_URL?",
    ]


# ------------------------------------------------------------------------------------------------------- log


@pytest.fixture
def logged() -> Callable[..., io.StringIO]:
    """`logged(level, as_json=True)`: sets up the log; what it returns fills with what is logged."""

    def configured(level: str = "info", *, as_json: bool = False) -> io.StringIO:
        stream = io.StringIO()
        with redirect_stderr(stream):
            configure_logging(level, as_json=as_json)
        return stream

    return configured


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
