"""Who trains is told once, when a verdict turns to drift."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from onesheet.errors import WebhookError
from onesheet.monitoring.drift import tell_of_drift
from onesheet.predictionlog import DriftRun, DriftRuns, PredictionLog

WORD = "open sesame"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def told(settings, receiver, monkeypatch):
    """`told("ok", "drift")`: how many messages there were after runs with these verdicts."""
    monkeypatch.setattr("onesheet.webhook._WAITS_SECONDS", (0.0, 0.0))
    told_settings = type(settings)(
        _env_file=None, log_url=settings.log_url, drift_webhook=receiver.url, drift_webhook_token=WORD
    )
    with closing(PredictionLog(settings.log_url)) as log:
        log.migrate()

        def after(*verdicts, version="1.0.0"):
            for verdict in verdicts:
                time = NOON + timedelta(hours=len(DriftRuns(log).latest(100)))
                DriftRuns(log).add(
                    DriftRun(uuid4(), time, "tiny", version, verdict, result(verdict, version), has_report=False)
                )
                tell_of_drift(log, told_settings)
            return len(receiver.seen)

        yield after


def result(verdict, version):
    columns = [{"name": f"probability:{number}", "distance": 0.5, "verdict": "drift"} for number in range(40)]
    return {
        "id": str(uuid4()),
        "time": NOON.isoformat(),
        "verdict": verdict,
        "model": {"name": "tiny", "version": version},
        "since": NOON.isoformat(),
        "until": NOON.isoformat(),
        "pictures": 200,
        "summary": "In 200 pictures there moved: much.",
        "columns": columns if verdict == "drift" else [],
        "watched": columns,
    }


def test_a_turn_to_drift_is_told_as_github_wants_it(told, receiver):
    assert told("ok", "warning", "drift") == 1
    ((path, headers, body),) = receiver.seen
    assert path == "/repos/films/onesheet/dispatches"
    assert headers["Authorization"] == f"Bearer {WORD}"
    assert headers["Accept"] == "application/vnd.github+json"
    assert body.keys() == {"event_type", "client_payload"}
    assert body["event_type"] == "onesheet-drift"
    payload = body["client_payload"]
    assert len(payload) <= 10
    assert (payload["verdict"], payload["model"]) == ("drift", {"name": "tiny", "version": "1.0.0"})
    assert len(payload["columns"]) == 20


def test_it_is_told_once_for_as_long_as_it_lasts(told):
    assert told("drift", "drift", "not enough data", "drift") == 1
    assert told("ok", "drift") == 2
    assert told("drift", version="2.0.0") == 3


def test_nothing_to_tell(told, settings):
    assert told() == 0
    assert told("ok", "warning", "not enough data") == 0


def test_a_receiver_that_stumbles_is_asked_again(told, receiver):
    receiver.statuses = [503, 500]
    assert told("drift") == 3


def test_a_receiver_that_refuses_is_not(told, receiver):
    receiver.statuses = [401]
    with pytest.raises(WebhookError, match="status 401"):
        told("drift")
    assert len(receiver.seen) == 1


def test_nobody_there(told, settings, monkeypatch):
    with closing(PredictionLog(settings.log_url)) as log:
        DriftRuns(log).add(DriftRun(uuid4(), NOON, "tiny", "1", "drift", result("drift", "1"), has_report=False))
        for address in ("http://127.0.0.1:9/", "nonsense"):
            away = settings.model_copy(update={"drift_webhook": address})
            with pytest.raises(WebhookError, match="cannot be reached"):
                tell_of_drift(log, away)
