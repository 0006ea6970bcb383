"""Word to whoever trains, when a verdict turns to drift."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import httpx

from onesheet.errors import WebhookError
from onesheet.predictionlog import DriftRuns

if TYPE_CHECKING:
    from onesheet.predictionlog import PredictionLog
    from onesheet.settings import Settings

_EVENT: Final = "onesheet-drift"
_RUNS: Final = 30
_COLUMNS: Final = 20
_TIMEOUT_SECONDS: Final = 10.0
_WAITS_SECONDS: Final = (1.0, 5.0)


def tell_of_drift(log: PredictionLog, settings: Settings) -> bool:
    """POST to `drift_webhook` if the latest run found drift and the one before did not.

    The body is GitHub's for a `repository_dispatch`, which starts a workflow; other receivers find the same in it.
    Runs of another model, and those with too little data, do not count as the one before.

    Args:
        log: Holds the runs.
        settings: Where to send it, and the token.

    Returns:
        Whether it was sent.

    Raises:
        WebhookError: Nobody took it.
        LogUnavailableError: The runs cannot be read.
    """
    runs = [run for run in DriftRuns(log).latest(_RUNS) if run.verdict != "not enough data"]
    if not settings.drift_webhook or not runs or runs[0].verdict != "drift":
        return False
    model = (runs[0].model_name, runs[0].model_version)
    before = next((run for run in runs[1:] if (run.model_name, run.model_version) == model), None)
    if before and before.verdict == "drift":
        return False
    _send(settings, {"event_type": _EVENT, "client_payload": _payload(runs[0].result)})
    return True


def _payload(result: dict[str, Any]) -> dict[str, Any]:
    """GitHub takes ten keys at most."""
    columns = [{"name": column["name"], "distance": column["distance"]} for column in result["columns"][:_COLUMNS]]
    kept = ("id", "time", "verdict", "model", "since", "until", "pictures", "summary")
    return {**{name: result[name] for name in kept}, "columns": columns}


def _send(settings: Settings, body: dict[str, Any]) -> None:
    token = settings.drift_webhook_token
    headers = {"Accept": "application/vnd.github+json"}
    if token:
        headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    reason = ""
    for wait in (0.0, *_WAITS_SECONDS):
        time.sleep(wait)
        try:
            answer = httpx.post(str(settings.drift_webhook), json=body, headers=headers, timeout=_TIMEOUT_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = f"it cannot be reached ({type(error).__name__})"
            continue
        if answer.is_success:
            return
        reason = f"it answers with status {answer.status_code}"
        if answer.is_client_error:
            break
    raise WebhookError(f"ONESHEET_DRIFT_WEBHOOK was not told of the drift: {reason}")
