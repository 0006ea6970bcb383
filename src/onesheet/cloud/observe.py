"""What is there and what it says: status and logs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.api_core.exceptions import NotFound
from google.cloud import aiplatform_v1 as vertex
from google.cloud import run_v2 as run
from google.cloud import scheduler_v1 as scheduler
from google.cloud.devtools import cloudbuild_v1 as cloudbuild
from google.cloud.logging_v2.types import ListLogEntriesRequest
from google.logging.type.log_severity_pb2 import LogSeverity

from onesheet.cloud.config import Place
from onesheet.cloud.google import Google
from onesheet.cloud.jobs import state_name
from onesheet.cloud.steps import as_json
from onesheet.errors import CloudError, ConfigError

_RECENT: Final = 10
_POLL_SECONDS: Final = 5.0
_PAGE: Final = 200
# Entries arrive out of order, and a little late.
_OVERLAP: Final = timedelta(seconds=30)


def status(google: Google, place: Place) -> list[dict[str, str]]:
    """Everything of ours that runs or ran lately, a row each: `kind`, `name`, `state`, `since`, `detail`.

    Raises:
        CloudError: Something cannot be listed.
    """
    return [
        *_services(google, place),
        *_drift_checks(google, place),
        *_schedule(google, place),
        *_builds(google, place),
        *_jobs(google, place),
    ]


def _services(google: Google, place: Place) -> Iterator[dict[str, str]]:
    found = google.list("run.services", "list_services", run.ListServicesRequest(parent=place.location))
    for one in found:
        if one.labels.get("service") == place.config.name:
            ready = one.terminal_condition.state == run.Condition.State.CONDITION_SUCCEEDED
            state = "ready" if ready else one.terminal_condition.message or "not ready"
            image = one.template.containers[0].image.rpartition("/")[2]
            yield _row("service", one.name, state, one.update_time, f"{one.uri} {image}".strip())


def _drift_checks(google: Google, place: Place) -> Iterator[dict[str, str]]:
    try:
        job = google.call("run.jobs", "get_job", run.GetJobRequest(name=place.drift_job))
    except CloudError as error:
        if not isinstance(error.__cause__, NotFound):
            raise
        return
    last = job.latest_created_execution
    state = last.completion_status.name.removeprefix("EXECUTION_").lower() if last.name else "never run"
    yield _row("job", job.name, state, last.create_time, last.name)


def _schedule(google: Google, place: Place) -> Iterator[dict[str, str]]:
    for one in google.list("scheduler", "list_jobs", scheduler.ListJobsRequest(parent=place.location)):
        if one.name == place.schedule:
            failed = one.status.code
            state = one.state.name.lower() + (f", last call failed: {one.status.message}" if failed else "")
            yield _row("schedule", one.name, state, one.last_attempt_time, f"{one.schedule} {one.time_zone}")


def _builds(google: Google, place: Place) -> Iterator[dict[str, str]]:
    request = cloudbuild.ListBuildsRequest(parent=place.location, project_id=place.project, filter='tags="onesheet"')
    for one in google.list("cloudbuild", "list_builds", request, _RECENT):
        yield _row("build", one.id, one.status.name.lower(), one.create_time, one.substitutions.get("_TAG", ""))


def _jobs(google: Google, place: Place) -> Iterator[dict[str, str]]:
    mine = f'labels.service="{place.config.name}"'
    trainings = vertex.ListCustomJobsRequest(parent=place.location, filter=mine)
    for one in google.list("vertex", "list_custom_jobs", trainings, _RECENT):
        yield _row("training", one.name, state_name(one.state), one.create_time, one.display_name)
    sweeps = vertex.ListHyperparameterTuningJobsRequest(parent=place.location, filter=mine)
    for one in google.list("vertex", "list_hyperparameter_tuning_jobs", sweeps, _RECENT):
        done = sum(trial.state == vertex.Trial.State.SUCCEEDED for trial in one.trials)
        detail = f"{one.display_name}: {done} of {one.max_trial_count} trials"
        yield _row("sweep", one.name, state_name(one.state), one.create_time, detail)


def _row(kind: str, name: str, state: str, since: Any, detail: str) -> dict[str, str]:
    return {
        "kind": kind,
        "name": name.rpartition("/")[2],
        "state": state,
        "since": f"{since:%Y-%m-%d %H:%M}" if since and since.timestamp() > 0 else "",
        "detail": detail,
    }


def log_filter(place: Place, what: str, since: datetime) -> str:
    """Which entries belong to something, in the language of Cloud Logging.

    Args:
        place: Where.
        what: A service, `drift-check`, or the id of a build, a training or a sweep.
        since: The first that are wanted.

    Raises:
        ConfigError: It can be none of these.
    """
    if not what.replace("-", "").isalnum():
        raise ConfigError(f"{what}: say a service, drift-check, or an id that `onesheet cloud status` lists")
    name = f"{place.config.name}-{what}"
    if what in place.config.services:
        which = f'resource.type="cloud_run_revision" AND resource.labels.service_name="{name}"'
    elif what == "drift-check":
        which = f'resource.type="cloud_run_job" AND resource.labels.job_name="{name}"'
    elif what.isdecimal():
        which = f'resource.type="ml_job" AND resource.labels.job_id="{what}"'
    else:
        which = f'resource.type="build" AND resource.labels.build_id="{what}"'
    return f'{which} AND timestamp>="{since.astimezone(UTC).isoformat()}"'


def logs(
    google: Google, place: Place, what: str, since: datetime, limit: int, *, follow: bool = False
) -> Iterator[tuple[datetime, str, str]]:
    """Entries as time, severity and text, oldest first.

    Args:
        google: The project.
        place: Where.
        what: As for `log_filter`.
        since: The first that are wanted.
        limit: How many at most, the newest; what comes later is not counted.
        follow: Go on with what comes, until interrupted.

    Raises:
        ConfigError: As for `log_filter`.
        CloudError: They cannot be read.
    """
    seen: dict[str, datetime] = {}
    newest = since
    while True:
        request = ListLogEntriesRequest(
            resource_names=[f"projects/{place.project}"],
            filter=log_filter(place, what, newest - _OVERLAP if seen else newest),
            order_by="timestamp desc",
            page_size=min(limit, _PAGE),
        )
        found = google.list("logging", "list_log_entries", request, limit)
        fresh = [entry for entry in reversed(found) if entry.insert_id not in seen]
        for entry in fresh:
            newest = max(newest, entry.timestamp)
            seen[entry.insert_id] = entry.timestamp
            yield entry.timestamp, LogSeverity.Name(entry.severity).lower(), _text(entry)
        if not follow:
            return
        seen = {one: when for one, when in seen.items() if when >= newest - _OVERLAP}
        time.sleep(_POLL_SECONDS)


def _text(entry: Any) -> str:
    """What an entry says: services of ours log JSON, whose message is its `event`."""
    payload = as_json(entry)
    if "textPayload" in payload:
        return str(payload["textPayload"])
    said = payload.get("jsonPayload") or payload.get("protoPayload") or {}
    event = said.pop("event", said.pop("message", ""))
    return " ".join([str(event), *(f"{name}={value}" for name, value in said.items())]).strip()
