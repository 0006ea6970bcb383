"""Google's own clients, all made and asked in one way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from typing import Any, Final

from google.api_core import exceptions
from google.api_core.operation import Operation
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage import Client

from onesheet.errors import CloudError, ConfigError, reason

# Module and client of each service, by the name that it goes by here. Imported when it is asked: some take seconds.
_CLIENTS: Final = {
    "artifactregistry": ("google.cloud.artifactregistry_v1", "ArtifactRegistryClient"),
    "cloudbuild": ("google.cloud.devtools.cloudbuild_v1", "CloudBuildClient"),
    "dashboards": ("google.cloud.monitoring_dashboard_v1", "DashboardsServiceClient"),
    "iam": ("google.cloud.iam_admin_v1", "IAMClient"),
    "logging": ("google.cloud.logging_v2.services.logging_service_v2", "LoggingServiceV2Client"),
    "policies": ("google.cloud.monitoring_v3", "AlertPolicyServiceClient"),
    "projects": ("google.cloud.resourcemanager_v3", "ProjectsClient"),
    "run.jobs": ("google.cloud.run_v2", "JobsClient"),
    "run.services": ("google.cloud.run_v2", "ServicesClient"),
    "scheduler": ("google.cloud.scheduler_v1", "CloudSchedulerClient"),
    "secrets": ("google.cloud.secretmanager_v1", "SecretManagerServiceClient"),
    "serviceusage": ("google.cloud.service_usage_v1", "ServiceUsageClient"),
    "vertex": ("google.cloud.aiplatform_v1", "JobServiceClient"),
}
# Those that answer at an address of their region only.
_REGIONAL: Final = {"vertex": "{region}-aiplatform.googleapis.com"}
# For what Google goes on with after it has answered; a service that does not become ready is given up sooner by itself.
_OPERATION_SECONDS: Final = 1800.0


class Google:
    """The services of one project.

    Args:
        project: Its id.
        region: For services that have an address in each.
        emulator: `HOST:PORT` of a server that is asked instead, without encryption and credentials.
    """

    def __init__(self, project: str, region: str, emulator: str | None = None) -> None:
        self._project, self._region, self._emulator = project, region, emulator
        self._clients: dict[str, Any] = {}

    def call(self, api: str, rpc: str, request: Any, *, wait: bool = True) -> Any:
        """Send a request, and wait for what it sets going.

        Args:
            api: A name in `_CLIENTS`.
            rpc: The client's method.
            request: As its type.
            wait: Else what was set going is returned as an operation.

        Raises:
            CloudError: Google refuses or fails; its own error is the cause.
        """
        with told():
            answer = getattr(self._client(api), rpc)(request=request)
            if wait and isinstance(answer, Operation):
                return answer.result(timeout=_OPERATION_SECONDS)  # type: ignore[no-untyped-call]
            return answer

    def list(self, api: str, rpc: str, request: Any, limit: int | None = None) -> list[Any]:
        """Everything that a paged request finds, or the first of it.

        Raises:
            CloudError: As for `call`.
        """
        with told():
            found = []
            for one in getattr(self._client(api), rpc)(request=request):
                found.append(one)
                if len(found) == limit:
                    break
            return found

    @cached_property
    def storage(self) -> Client:
        """Cloud Storage.

        Raises:
            CloudError: There are no credentials.
        """
        with told():
            return Client(project=self._project)

    def _client(self, api: str) -> Any:
        if api not in self._clients:
            module, name = _CLIENTS[api]
            client = getattr(import_module(module), name)
            self._clients[api] = client(**self._options(api, client))
        return self._clients[api]

    def _options(self, api: str, client: Any) -> dict[str, Any]:
        if self._emulator:
            import grpc

            channel = grpc.insecure_channel(self._emulator)
            return {"transport": client.get_transport_class("grpc")(channel=channel)}
        if api in _REGIONAL:
            return {"client_options": {"api_endpoint": _REGIONAL[api].format(region=self._region)}}
        return {}


def read_secret(name: str, emulator: str | None = None) -> str:
    """The newest value of a secret.

    Args:
        name: `projects/PROJECT/secrets/NAME`.
        emulator: As for `Google`.

    Raises:
        ConfigError: It is not named so.
        CloudError: It has no value, or may not be read.
    """
    match name.split("/"):
        case ["projects", project, "secrets", _]:
            google = Google(project, "", emulator)
        case _:
            raise ConfigError(f"{name}: a secret is named projects/PROJECT/secrets/NAME")
    from google.cloud.secretmanager_v1 import AccessSecretVersionRequest

    request = AccessSecretVersionRequest(name=f"{name}/versions/latest")
    value: str = google.call("secrets", "access_secret_version", request).payload.data.decode()
    return value


@contextmanager
def told() -> Iterator[None]:
    """What Google's libraries raise, as one of our errors.

    Raises:
        CloudError: In place of theirs, which is its cause.
    """
    try:
        yield
    except GoogleAuthError as error:
        raise CloudError("there are no Google credentials here; run `gcloud auth application-default login`") from error
    except exceptions.Unauthenticated as error:
        raise CloudError(f"Google does not accept the credentials here: {_said(error)}") from error
    except (exceptions.PermissionDenied, exceptions.Forbidden) as error:
        raise CloudError(f"no permission: {_said(error)}") from error
    except (exceptions.ServiceUnavailable, exceptions.RetryError, exceptions.DeadlineExceeded) as error:
        raise CloudError(f"Google does not answer, try again later: {_said(error)}") from error
    except exceptions.GoogleAPICallError as error:
        raise CloudError(_said(error)) from error
    except exceptions.GoogleAPIError as error:
        raise CloudError(reason(error)) from error


def _said(error: exceptions.GoogleAPIError) -> str:
    return str(getattr(error, "message", "") or reason(error))
