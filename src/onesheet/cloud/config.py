"""What runs on Google Cloud, and under which names: `configs/cloud.yaml` and the settings of the project."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from onesheet.configs import default_config_dir, read_config
from onesheet.errors import ConfigError
from onesheet.settings import Settings

# Accounts are named after it, and may have 30 letters.
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,18}[a-z0-9]$")]
_Memory = Annotated[str, Field(pattern=r"^\d+(Mi|Gi)$")]

# https://cloud.google.com/resource-manager/docs/creating-managing-projects
_PROJECT: Final = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
_PROJECT_RULE: Final = "it has 6 to 30 small letters, digits and hyphens, begins with a letter and ends with no hyphen"
_REGION: Final = re.compile(r"[a-z]+-[a-z]+[0-9]{1,2}")
# https://cloud.google.com/storage/docs/buckets#naming
_BUCKET: Final = re.compile(r"(?=.{3,222}$)[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?)*")
_BUCKET_RULE: Final = (
    "it has 3 to 63 small letters, digits, hyphens, underscores and dots, begins and ends with a letter or digit, and "
    "does not begin with goog; give the name without gs://"
)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(_Strict):
    """What a training runs on."""

    machine_type: str
    accelerator: str | None = None
    accelerators: int = Field(1, ge=1)
    disk_gb: int = Field(100, ge=10)

    @property
    def gpus(self) -> int:
        """How many the machine has."""
        return self.accelerators if self.accelerator else 0


class Training(_Strict):
    """Jobs of Vertex AI."""

    machines: dict[str, Machine]
    secrets: list[str] = []
    max_hours: float = Field(12, gt=0)


class Service(_Strict):
    """A service of Cloud Run."""

    image: str
    port: int = Field(ge=1, le=65535)
    startup_path: str
    liveness_path: str
    cpu: float = Field(gt=0)
    memory: _Memory
    concurrency: int = Field(ge=1, le=1000)
    min_instances: int = Field(0, ge=0)
    max_instances: int = Field(1, ge=1)
    public: bool = False
    session_affinity: bool = False
    secrets: list[str] = []
    metrics: bool = False
    env: dict[str, str] = {}

    @model_validator(mode="after")
    def _has_room(self) -> Service:
        if self.min_instances > self.max_instances:
            raise ValueError("min_instances is above max_instances")
        return self


class DriftJob(_Strict):
    """The scheduled comparison."""

    schedule: str
    time_zone: str = "Etc/UTC"
    cpu: float = Field(gt=0)
    memory: _Memory
    max_minutes: float = Field(30, gt=0)
    secrets: list[str] = []


class CloudConfig(_Strict):
    """`configs/cloud.yaml`, where each key is explained."""

    name: _Name = "onesheet"
    secrets: dict[str, str]
    training: Training
    services: dict[str, Service]
    drift_job: DriftJob
    cloud_sql: list[str] = []
    notification_channels: list[str] = []
    metrics_sidecar: str
    keep_images: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _secrets_are_known(self) -> CloudConfig:
        users = [self.training.secrets, self.drift_job.secrets, *(one.secrets for one in self.services.values())]
        for name in (name for names in users for name in names):
            if name not in self.secrets:
                raise ValueError(f"{name} is not among the secrets")
        return self


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything is, and what it is called there.

    Attributes:
        project: Id of the project.
        region: Such as `europe-west4`.
        bucket: For posters, runs, bundles and sources.
        config: What runs there.
    """

    project: str
    region: str
    bucket: str
    config: CloudConfig

    @property
    def location(self) -> str:
        """Parent of everything that lies in a region."""
        return f"projects/{self.project}/locations/{self.region}"

    @property
    def repository(self) -> str:
        """Name of the repository of images."""
        return f"{self.location}/repositories/{self.config.name}"

    @property
    def images(self) -> str:
        """Address in front of the names of images."""
        return f"{self.region}-docker.pkg.dev/{self.project}/{self.config.name}"

    def image(self, name: str, tag: str) -> str:
        """Address of an image."""
        return f"{self.images}/{self.config.name}-{name}:{tag}"

    def address(self, *parts: str) -> str:
        """In the bucket."""
        return "/".join([f"gs://{self.bucket}", *parts])

    def account(self, role: str) -> str:
        """E-mail of the service account of a part."""
        return f"{self.config.name}-{role}@{self.project}.iam.gserviceaccount.com"

    def service(self, name: str) -> str:
        """Name of a service of Cloud Run."""
        return f"{self.location}/services/{self.config.name}-{name}"

    @property
    def drift_job(self) -> str:
        """Name of the job that compares."""
        return f"{self.location}/jobs/{self.config.name}-drift-check"

    @property
    def schedule(self) -> str:
        """Name of what starts it."""
        return f"{self.location}/jobs/{self.config.name}-drift-check"

    def secret(self, name: str) -> str:
        """Name of a secret."""
        return f"projects/{self.project}/secrets/{name}"

    def metrics_secret(self, service: str) -> str:
        """Short name of the secret that tells a service's collector what to read."""
        return f"{self.config.name}-{service}-metrics"


def read_place(settings: Settings, file: Path | None = None) -> Place:
    """Where the settings say, what the file says.

    Args:
        settings: Its `cloud_…` fields.
        file: Default: the shipped `cloud.yaml`.

    Raises:
        ConfigError: No project is set; project, region or bucket cannot be one; or the file is wrong.
    """
    config = read_config(file or default_config_dir() / "cloud.yaml", CloudConfig)
    project = settings.cloud_project
    if not project:
        raise ConfigError("no project: set ONESHEET_CLOUD_PROJECT or say --project PROJECT")
    if not _PROJECT.fullmatch(project):
        raise ConfigError(f"{project!r} cannot be the id of a project: {_PROJECT_RULE}{_hint(project)}")
    if not _REGION.fullmatch(settings.cloud_region):
        raise ConfigError(f"{settings.cloud_region!r} cannot be a region of Google Cloud: say one such as europe-west4")
    bucket = settings.cloud_bucket or f"{project}-{config.name}"
    if not _BUCKET.fullmatch(bucket) or bucket.startswith("goog"):
        raise ConfigError(f"{bucket!r} cannot be the name of a bucket: {_BUCKET_RULE}")
    return Place(project, settings.cloud_region, bucket, config)


def _hint(project: str) -> str:
    if project.isdecimal():
        return "; it looks like the project's number, `gcloud projects list` shows its id"
    if ":" in project:
        return "; ids of a domain, DOMAIN:ID, are not supported"
    return ""
