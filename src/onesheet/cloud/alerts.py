"""The alerting policies and the dashboard of `deploy/gcp/monitoring`, brought to Cloud Monitoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.api_core.exceptions import AlreadyExists, NotFound
from google.cloud import monitoring_dashboard_v1 as boards
from google.cloud import monitoring_v3

from onesheet.cloud.google import Google
from onesheet.cloud.steps import Call, Step
from onesheet.errors import DataError, reason

MINE: Final = 'user_labels.service="onesheet"'


@dataclass(frozen=True)
class PutPolicy:
    """An alerting policy, in place of the one of its name.

    Attributes:
        project: That it belongs to.
        policy: As it is to be.
    """

    project: str
    policy: monitoring_v3.AlertPolicy

    @property
    def what(self) -> str:
        """The alert."""
        return f"alert {self.policy.display_name}"

    def shown(self) -> dict[str, Any]:
        """As JSON; one of the same name is updated instead."""
        return self._create().shown()

    def send(self, google: Google) -> Any:
        """Create or update it.

        Raises:
            CloudError: It was refused or failed.
        """
        found = policies(google, self.project, f'display_name="{self.policy.display_name}"')
        if not found:
            return self._create().send(google)
        wanted = monitoring_v3.AlertPolicy(self.policy)
        wanted.name = found[0].name
        request = monitoring_v3.UpdateAlertPolicyRequest(alert_policy=wanted)
        return Call(self.what, "policies", "update_alert_policy", request).send(google)

    def _create(self) -> Call:
        request = monitoring_v3.CreateAlertPolicyRequest(name=f"projects/{self.project}", alert_policy=self.policy)
        return Call(self.what, "policies", "create_alert_policy", request)


@dataclass(frozen=True)
class DropPolicies:
    """All of our alerting policies are removed.

    Attributes:
        project: That they belong to.
    """

    project: str

    @property
    def what(self) -> str:
        """The alerts."""
        return "alerts"

    def shown(self) -> dict[str, Any]:
        """As JSON; which there are is known only there."""
        return {"call": "policies.delete_alert_policy", "of each that has": MINE}

    def send(self, google: Google) -> None:
        """Remove each.

        Raises:
            CloudError: They cannot be listed, or one cannot be removed.
        """
        for policy in policies(google, self.project):
            request = monitoring_v3.DeleteAlertPolicyRequest(name=policy.name)
            Call(f"alert {policy.display_name}", "policies", "delete_alert_policy", request, NotFound).send(google)


def monitoring(project: str, folder: Path, channels: Sequence[str] = ()) -> Iterator[Step]:
    """Every policy of a folder, and the dashboard.

    Args:
        project: That they belong to.
        folder: Such as `deploy/gcp/monitoring`.
        channels: Notification channels of every policy.

    Raises:
        DataError: A file is missing, or Cloud Monitoring has no such thing.
    """
    for file in sorted((folder / "policies").glob("*.json")):
        policy = _read(file, monitoring_v3.AlertPolicy)
        policy.notification_channels = list(channels)
        yield PutPolicy(project, policy)
    board = _read(folder / "dashboard.json", boards.Dashboard)
    board.name = dashboard_name(project)
    create = boards.CreateDashboardRequest(parent=f"projects/{project}", dashboard=board)
    update = boards.UpdateDashboardRequest(dashboard=board)
    yield Call(
        "dashboard",
        "dashboards",
        "create_dashboard",
        create,
        AlreadyExists,
        Call("dashboard", "dashboards", "update_dashboard", update),
    )


def policies(google: Google, project: str, condition: str = MINE) -> list[Any]:
    """Alerting policies that there are.

    Raises:
        CloudError: They cannot be listed.
    """
    request = monitoring_v3.ListAlertPoliciesRequest(name=f"projects/{project}", filter=condition)
    return google.list("policies", "list_alert_policies", request)


def dashboard_name(project: str) -> str:
    """Of the one dashboard."""
    return f"projects/{project}/dashboards/onesheet"


def _read(file: Path, kind: Any) -> Any:
    try:
        return kind.from_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}; alerts are deployed from a checkout") from error
    except ValueError as error:
        raise DataError(f"{file}: {reason(error)}") from error
