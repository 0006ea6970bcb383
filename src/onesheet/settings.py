"""The one reader of the environment (prefix `ONESHEET_`) and of a `.env` file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from onesheet.refs import REGISTRY_PREFIX, is_registered


class Settings(BaseSettings):
    """Settings of every command; a command's own options win over them."""

    # Where workflows and compose files pass on what may not be set, an empty value means just that.
    model_config = SettingsConfigDict(
        env_prefix="ONESHEET_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    bundle: str = Field(
        "starter",
        description="Bundle to use: a folder, a .tar.gz, `starter`, a gs:// address, or `champion`, `challenger` and "
        "`registry:VERSION` from the registry.",
    )
    follow_seconds: float | None = Field(
        None,
        gt=0,
        description="How often a service looks whether its bundle, an alias of the registry, is another version by "
        "now; default: never.",
    )
    registry_url: str = Field(
        "sqlite:///outputs/mlflow.db",
        description="The registry: a file or database of MLflow, the address of an MLflow server, or "
        "`wandb://ENTITY/PROJECT`.",
    )
    registry_artifacts: str | None = Field(
        None,
        description="Folder or address for the bundles of a registry that is a file or database; default: `registry` "
        "beside the file. A server has its own.",
    )
    registry_model: str = Field(
        "onesheet", pattern=r"^[A-Za-z0-9_-]+$", description="Name of the model whose versions the registry holds."
    )
    registry_webhook: str | None = Field(
        None,
        description="Address that is told of every move of an alias, such as "
        "https://api.github.com/repos/OWNER/REPO/dispatches, which starts a workflow.",
    )
    registry_webhook_token: SecretStr | None = Field(None, description="Bearer token for it.")
    actor: str | None = Field(
        None, description="Who moves aliases, for the registry's history; default: the user's name."
    )
    precision: Literal["fp32", "int8"] = Field(
        "fp32", description="Graph of the bundle that answers; int8 is faster and a little less exact."
    )
    data_source: str = Field(
        "https://github.com/laxmimerit/Movies-Poster_Dataset",
        description="Where `onesheet data fetch` gets posters when no source is named.",
    )
    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the API; 0 takes any free one.")
    workers: int = Field(1, ge=1, description="Processes that serve the API side by side.")
    threads: int | None = Field(
        None, ge=1, description="Worker threads of a process; default: the cores, or its share of them and one."
    )
    max_batch: int = Field(8, ge=1, description="Most pictures that wait which go through the model together.")

    max_upload_bytes: int = Field(20 * 2**20, gt=0, description="Largest accepted request body, in bytes.")
    max_upload_bytes_at_once: int = Field(
        256 * 2**20, gt=0, description="Of all requests under way in one process, in bytes; more are refused."
    )
    max_pixels: int = Field(25_000_000, gt=0, description="Largest accepted picture, in pixels.")
    max_batch_files: int = Field(32, ge=1, description="Most pictures in one request to /predict/batch.")
    max_waiting: int = Field(256, ge=1, description="Most pictures that wait for a thread; more are refused.")
    patience_seconds: float = Field(
        1.0, gt=0, description="A picture that cannot be answered within this time is refused at once."
    )
    body_seconds: float = Field(15.0, gt=0, le=60, description="In which the body of a request has to be there.")
    drain_seconds: float = Field(
        0, ge=0, le=60, description="Between SIGTERM and the end, for load balancers to see /readyz and look elsewhere."
    )
    rate_limit: int | None = Field(
        None,
        ge=1,
        description="Requests a minute of one client (key or address), for each worker; default: any.",
    )

    trusted_proxies: str = Field(
        "",
        description="Addresses or networks of load balancers, separated by commas, whose X-Forwarded-For names the "
        "client; `*`: whoever connects.",
    )

    allow_image_url: bool = Field(False, description="Fetch posters from https addresses that clients name.")
    image_url_seconds: float = Field(5.0, gt=0, description="In which such an address has to answer.")

    api_url: str = Field(
        "http://127.0.0.1:8000",
        description="API that the web page asks: its address, or `cloudrun://PROJECT/REGION/SERVICE`.",
    )
    api_key: SecretStr | None = Field(None, description="Key that the web page sends to the API.")
    ui_host: str = Field("127.0.0.1", description="Address that the web page listens on.")
    ui_port: int = Field(8501, ge=1, le=65535, description="Port of the web page.")

    log_url: str = Field(
        "sqlite:///onesheet.db", description="SQLAlchemy URL of the prediction log: SQLite or PostgreSQL."
    )
    log_failure: Literal["refuse", "answer"] = Field(
        "refuse", description="While the log is down: refuse, or answer without a prediction_id."
    )
    log_seconds: float = Field(2.0, gt=0, description="In which the log has to have an answer; later, it is down.")
    log_retention_days: float | None = Field(
        None, gt=0, description="Answers older than this are removed from the log, once an hour; default: never."
    )
    keep_pictures: str | None = Field(
        None,
        description="Folder where pictures that were answered are kept for the next training, by their hash; it may be "
        "a mounted bucket; default: none are.",
    )
    feedback_for_training: bool = Field(
        False, description="Feedback, and the pictures it is about, may be used for training."
    )
    drift_hours: float = Field(7 * 24, gt=0, description="Length of the window that `onesheet watch` compares.")
    drift_every_hours: float = Field(
        24, ge=0, description="How often `onesheet watch` compares by itself; 0: only when it is asked to."
    )
    drift_webhook: str | None = Field(
        None,
        description="Address that is told when a verdict turns to drift, such as "
        "https://api.github.com/repos/OWNER/REPO/dispatches, which starts a workflow.",
    )
    drift_webhook_token: SecretStr | None = Field(None, description="Bearer token for it.")
    drift_host: str = Field("127.0.0.1", description="Address that `onesheet watch` listens on.")
    drift_port: int = Field(8002, ge=0, le=65535, description="Its port; 0 takes any free one.")
    shadow_bundle: str | None = Field(None, description="Bundle that scores the same pictures, for the log only.")

    cloud_project: str | None = Field(None, description="Project of Google Cloud that `onesheet cloud` works in.")
    cloud_region: str = Field("europe-west4", description="Region of Google Cloud for all that lies in one.")
    cloud_bucket: str | None = Field(None, description="Bucket of posters and runs; default: PROJECT-onesheet.")
    cloud_emulator: str | None = Field(
        None,
        description="HOST:PORT of a server that stands in for Google's services, asked without encryption and "
        "credentials, for tests; Cloud Storage has STORAGE_EMULATOR_HOST for that. Default: Google.",
    )

    api_keys: str = Field(
        "",
        description="SHA-256 digests of accepted API keys, separated by commas (`onesheet key`); empty: open to all.",
    )
    admin_token: SecretStr | None = Field(None, description="Opens POST /admin/model; without, it is closed.")
    cors_origins: str = Field("", description="Origins whose pages may call the API, separated by commas.")
    admin_port: int | None = Field(
        None, ge=1, le=65535, description="Serve /metrics and /admin on this port only, beside the API's."
    )
    otlp_endpoint: str | None = Field(None, description="Send OpenTelemetry traces here.")

    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Least level that is logged.")
    log_json: bool = Field(False, description="One JSON object a line instead of coloured text.")

    @field_validator("follow_seconds")
    @classmethod
    def _follows_an_alias(cls, seconds: float | None, given: ValidationInfo) -> float | None:
        bundle = str(given.data.get("bundle"))
        if seconds and (not is_registered(bundle) or bundle.removeprefix(REGISTRY_PREFIX).isdecimal()):
            raise ValueError(f"only an alias of the registry can be followed, such as champion, not {bundle}")
        return seconds


def listed(value: str) -> list[str]:
    """The parts of a setting that holds several, separated by commas."""
    return [part.strip() for part in value.split(",") if part.strip()]
