"""What has to be there before anything can be built, trained or deployed: made once, and again without harm.

Who may do what is as little as the parts need:

| account | may |
|---|---|
| `build` | write images; read sources in the bucket; write logs |
| `train` | read posters; read and write runs; read its secrets |
| `api`, `drift` | read bundles and the registry; read their secrets; write metrics; reach the databases |
| `frontend` | list the services, to find the API |
| `scheduler` | start the drift check, once that is deployed |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from google.api_core.exceptions import AlreadyExists, NotFound
from google.cloud import artifactregistry_v1 as registry
from google.cloud import iam_admin_v1 as iam
from google.cloud import secretmanager_v1 as secrets
from google.cloud import service_usage_v1 as usage

from onesheet.cloud.config import Place
from onesheet.cloud.google import Google
from onesheet.cloud.rights import Binding, Grant, MakeBucket
from onesheet.cloud.steps import Call, Step

ACCOUNTS: Final = ("build", "train", "api", "drift", "frontend", "scheduler")
SERVICES: Final = (
    "aiplatform",
    "artifactregistry",
    "cloudbuild",
    "cloudresourcemanager",
    "cloudscheduler",
    "iam",
    "logging",
    "monitoring",
    "run",
    "secretmanager",
    "storage",
)
# Folders of the bucket.
DATA, RUNS, MODELS, REGISTRY, SOURCE = "data", "runs", "models", "registry", "source"
# A source is needed for its build only.
_SOURCE_DAYS: Final = 30
# Images beyond the newest are kept for this long.
_IMAGE_DAYS: Final = 30

# What the collector of a service reads, https://cloud.google.com/run/docs/monitoring-sidecar
_COLLECTED: Final = """\
apiVersion: monitoring.googleapis.com/v1beta
kind: RunMonitoring
metadata:
  name: {service}
spec:
  endpoints:
  - port: {port}
    path: /metrics
    interval: 30s
"""


@dataclass(frozen=True)
class FillSecret:
    """A value of a secret, unless it has this one: each that is kept costs something.

    Attributes:
        short: What it is called.
        name: Of the secret.
        content: Its value; no secret, since it is shown.
    """

    short: str
    name: str
    content: bytes

    @property
    def what(self) -> str:
        """The value."""
        return f"content of {self.short}"

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return self._add().shown()

    def send(self, google: Google) -> Any:
        """Add it if the newest is another.

        Raises:
            CloudError: It was refused or failed.
        """
        newest = secrets.AccessSecretVersionRequest(name=f"{self.name}/versions/latest")
        found = Call(self.what, "secrets", "access_secret_version", newest, tolerates=NotFound).send(google)
        return found if found and found.payload.data == self.content else self._add().send(google)

    def _add(self) -> Call:
        payload = secrets.SecretPayload(data=self.content)
        request = secrets.AddSecretVersionRequest(parent=self.name, payload=payload)
        return Call(self.what, "secrets", "add_secret_version", request)


def bootstrap(place: Place) -> Iterator[Step]:
    """Everything, in its order."""
    yield _services(place)
    yield _repository(place)
    yield from (_account(place, role) for role in ACCOUNTS)
    yield _bucket(place)
    yield from _secrets(place)
    yield _may_push(place)
    yield _of_the_project(place)


def _services(place: Place) -> Call:
    wanted = [*SERVICES, *(["sqladmin"] if place.config.cloud_sql else [])]
    request = usage.BatchEnableServicesRequest(
        parent=f"projects/{place.project}", service_ids=[f"{name}.googleapis.com" for name in wanted]
    )
    return Call("services of Google", "serviceusage", "batch_enable_services", request)


def _repository(place: Place) -> Call:
    policy, condition = registry.CleanupPolicy, registry.CleanupPolicyCondition
    newest = registry.CleanupPolicyMostRecentVersions(keep_count=place.config.keep_images)
    old = condition(tag_state=condition.TagState.ANY, older_than=timedelta(days=_IMAGE_DAYS))
    repository = registry.Repository(
        format_=registry.Repository.Format.DOCKER,
        description="Images of onesheet",
        cleanup_policies={
            "keep-newest": policy(id="keep-newest", action=policy.Action.KEEP, most_recent_versions=newest),
            "delete-old": policy(id="delete-old", action=policy.Action.DELETE, condition=old),
        },
    )
    request = registry.CreateRepositoryRequest(
        parent=place.location, repository_id=place.config.name, repository=repository
    )
    what = f"repository {place.config.name}"
    return Call(what, "artifactregistry", "create_repository", request, tolerates=AlreadyExists)


def _account(place: Place, role: str) -> Call:
    request = iam.CreateServiceAccountRequest(
        name=f"projects/{place.project}",
        account_id=f"{place.config.name}-{role}",
        service_account=iam.ServiceAccount(display_name=f"onesheet: {role}"),
    )
    return Call(f"account {role}", "iam", "create_service_account", request, tolerates=AlreadyExists)


def _bucket(place: Place) -> MakeBucket:
    viewer, user = "roles/storage.objectViewer", "roles/storage.objectUser"
    rights = {
        "build": ((viewer, (SOURCE,)),),
        "train": ((viewer, (DATA,)), (user, (RUNS,))),
        "api": ((viewer, (MODELS, RUNS, REGISTRY)),),
        "drift": ((viewer, (MODELS, RUNS, REGISTRY)),),
    }
    bindings = tuple(
        Binding(role, _member(place, name), _below(place, folders))
        for name, granted in rights.items()
        for role, folders in granted
    )
    return MakeBucket(place.bucket, place.region, {f"{SOURCE}/": _SOURCE_DAYS}, bindings)


def _below(place: Place, folders: tuple[str, ...]) -> str:
    """Objects in some folders, and the bucket itself, which is what listing is asked of."""
    objects = f"projects/_/buckets/{place.bucket}/objects"
    named = (f'resource.name.startsWith("{objects}/{folder}/")' for folder in folders)
    return " || ".join(['resource.type == "storage.googleapis.com/Bucket"', *named])


def _secrets(place: Place) -> Iterator[Step]:
    """Made empty, but for what collectors read, which is no secret; each read by those that the file names."""
    readers = {"train": place.config.training.secrets, "drift": [*place.config.drift_job.secrets]}
    for name, service in place.config.services.items():
        readers.setdefault(name, []).extend(service.secrets)
        if service.metrics:
            collector = place.metrics_secret(name)
            readers[name].append(collector)
            yield _secret(place, collector)
            content = _COLLECTED.format(service=name, port=service.port).encode()
            yield FillSecret(collector, place.secret(collector), content)
    yield from (_secret(place, name) for name in place.config.secrets)
    named = sorted({secret for names in readers.values() for secret in names})
    for secret in named:
        members = [name for name, read in readers.items() if secret in read]
        bindings = tuple(Binding("roles/secretmanager.secretAccessor", _member(place, name)) for name in members)
        yield Grant(f"readers of {secret}", "secrets", place.secret(secret), bindings)


def _secret(place: Place, name: str) -> Call:
    request = secrets.CreateSecretRequest(
        parent=f"projects/{place.project}",
        secret_id=name,
        secret=secrets.Secret(replication={"automatic": {}}, labels={"service": place.config.name}),
    )
    return Call(f"secret {name}", "secrets", "create_secret", request, tolerates=AlreadyExists)


def _may_push(place: Place) -> Grant:
    bindings = (Binding("roles/artifactregistry.writer", _member(place, "build")),)
    return Grant("who may push images", "artifactregistry", place.repository, bindings)


def _of_the_project(place: Place) -> Grant:
    """What cannot be granted of less than a project."""
    rights = [("roles/logging.logWriter", "build"), ("roles/run.viewer", "frontend")]
    for name, service in place.config.services.items():
        rights += [("roles/monitoring.metricWriter", name)] if service.metrics else []
    if place.config.cloud_sql:
        rights += [("roles/cloudsql.client", name) for name in ("api", "drift")]
    bindings = tuple(Binding(role, _member(place, name)) for role, name in rights)
    return Grant("accounts in the project", "projects", f"projects/{place.project}", bindings)


def _member(place: Place, role: str) -> str:
    return f"serviceAccount:{place.account(role)}"
