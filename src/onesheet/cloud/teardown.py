"""Everything that `bootstrap`, `build` and `deploy` have made, gone again; data only where somebody says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.api_core.exceptions import NotFound
from google.cloud import artifactregistry_v1 as registry
from google.cloud import iam_admin_v1 as iam
from google.cloud import monitoring_dashboard_v1 as boards
from google.cloud import run_v2 as run
from google.cloud import scheduler_v1 as scheduler
from google.cloud import secretmanager_v1 as secrets
from google.cloud.devtools import cloudbuild_v1 as cloudbuild

from onesheet.cloud.alerts import DropPolicies, dashboard_name
from onesheet.cloud.bootstrap import ACCOUNTS
from onesheet.cloud.config import Place
from onesheet.cloud.steps import Call, Step


def teardown(place: Place, *, everything: bool) -> Iterator[Step]:
    """What costs something, or answers somebody.

    Args:
        place: Where.
        everything: Images, secrets and accounts too. The bucket stays in any case.
    """
    yield _gone(
        "schedule of the drift check", "scheduler", "delete_job", scheduler.DeleteJobRequest(name=place.schedule)
    )
    yield _gone("job drift-check", "run.jobs", "delete_job", run.DeleteJobRequest(name=place.drift_job))
    for name in place.config.services:
        request = run.DeleteServiceRequest(name=place.service(name))
        yield _gone(f"service {name}", "run.services", "delete_service", request)
    trigger = cloudbuild.DeleteBuildTriggerRequest(
        name=f"{place.location}/triggers/{place.config.name}-main", project_id=place.project
    )
    yield _gone("trigger of builds", "cloudbuild", "delete_build_trigger", trigger)
    yield DropPolicies(place.project)
    board = boards.DeleteDashboardRequest(name=dashboard_name(place.project))
    yield _gone("dashboard", "dashboards", "delete_dashboard", board)
    if everything:
        yield from _foundations(place)


def _foundations(place: Place) -> Iterator[Step]:
    images = registry.DeleteRepositoryRequest(name=place.repository)
    yield _gone(f"repository {place.config.name}", "artifactregistry", "delete_repository", images)
    collected = [place.metrics_secret(name) for name, service in place.config.services.items() if service.metrics]
    for name in [*place.config.secrets, *collected]:
        request = secrets.DeleteSecretRequest(name=place.secret(name))
        yield _gone(f"secret {name}", "secrets", "delete_secret", request)
    for role in ACCOUNTS:
        account = iam.DeleteServiceAccountRequest(
            name=f"projects/{place.project}/serviceAccounts/{place.account(role)}"
        )
        yield _gone(f"account {role}", "iam", "delete_service_account", account)


def _gone(what: str, api: str, rpc: str, request: Any) -> Call:
    return Call(what, api, rpc, request, tolerates=NotFound)
