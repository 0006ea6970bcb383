"""Word to whoever trains, when a verdict turns to drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from onesheet.predictionlog import DriftRuns
from onesheet.webhook import dispatch

if TYPE_CHECKING:
    from onesheet.predictionlog import PredictionLog
    from onesheet.settings import Settings

_EVENT: Final = "onesheet-drift"
_RUNS: Final = 30
_COLUMNS: Final = 20


def tell_of_drift(log: PredictionLog, settings: Settings) -> bool:
    """POST to `drift_webhook` if the latest run found drift and the one before did not.

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
    payload = _payload(runs[0].result)
    dispatch("ONESHEET_DRIFT_WEBHOOK", settings.drift_webhook, settings.drift_webhook_token, _EVENT, payload)
    return True


def _payload(result: dict[str, Any]) -> dict[str, Any]:
    """GitHub takes ten keys at most."""
    columns = [{"name": column["name"], "distance": column["distance"]} for column in result["columns"][:_COLUMNS]]
    kept = ("id", "time", "verdict", "model", "since", "until", "pictures", "summary")
    return {**{name: result[name] for name in kept}, "columns": columns}
