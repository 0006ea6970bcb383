"""Application settings, read from the environment (prefix `ONESHEET_`) and a `.env` file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    AliasChoices,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from onesheet import setting_values
from onesheet.errors import InvalidRequestError
from onesheet.refs import REGISTRY_PREFIX, is_registered
from onesheet.setting_values import ENV_ENCODING, ENV_FILE, PREFIX, listed

__all__ = ["Settings", "listed"]

# Kubernetes sets variables of these names in every pod beside a service that is named onesheet, onesheet-ui, ….
_PORTS: Final = frozenset({"port", "ui_port", "drift_port", "admin_port"})
_MAY_HOLD_SECRETS: Final = frozenset(
    {"api_keys", "api_url", "log_url", "registry_url", "registry_webhook", "drift_webhook", "otlp_endpoint"}
)


@dataclass(frozen=True, slots=True)
class _Replaced:
    """In place of a value that cannot be used: why, and whether that is an error once the setting is asked for."""

    reason: str
    is_error: bool


# Letters that mean nothing else in an address, in HTML, or in a configuration.
_SUB_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def _sub_path(value: str) -> str:
    path = "/" + value.strip("/") if value.strip("/") else ""
    if path and not _SUB_PATH.fullmatch(path):
        raise ValueError(f"must be a path such as /films, got {value!r}")
    return path


SubPath: TypeAlias = Annotated[str, AfterValidator(_sub_path)]


class Settings(BaseSettings):
    """Settings of every command; a command's own options win over them.

    A value that cannot be used is reported when its setting is read, so that it stops only commands that use it.

    Raises:
        InvalidRequestError: By reading an attribute: its value is wrong. The message names variable and value.
    """

    # Where workflows and compose files pass on what may not be set, an empty value means just that.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding=ENV_ENCODING,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        populate_by_name=True,
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
    load_seconds: float = Field(
        300.0,
        gt=0,
        description="In which a service has to have loaded and tried a bundle; later, it is refused.",
    )
    data_source: str = Field(
        "https://github.com/laxmimerit/Movies-Poster_Dataset",
        description="Where `onesheet data fetch` gets posters when no source is named.",
    )
    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the API; 0 takes any free one.")
    workers: int = Field(1, ge=1, description="Processes that serve the API side by side.")
    worker_timeout_seconds: float = Field(
        20,
        gt=0,
        description="End and restart a worker process that has started and does not respond for this many seconds.",
    )
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

    root_path: SubPath = Field(
        "",
        description="Path below which a proxy serves the API, such as /films, whether the proxy strips it or not; "
        "default: what a trusted proxy sends as X-Forwarded-Prefix.",
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
    ui_base_path: SubPath = Field(
        "",
        validation_alias=AliasChoices("ONESHEET_UI_BASE_PATH", "STREAMLIT_SERVER_BASE_URL_PATH"),
        description="Path that the web page is served at, such as /films, which a proxy passes on; default: "
        "STREAMLIT_SERVER_BASE_URL_PATH.",
    )

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

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_json: bool = Field(False, description="One JSON object a line instead of coloured text.")

    _wrong: dict[str, str] = PrivateAttr(default_factory=dict)
    _ignored: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("follow_seconds")
    @classmethod
    def _follows_an_alias(cls, seconds: float | None, given: ValidationInfo) -> float | None:
        bundle = str(given.data.get("bundle"))
        if seconds and (not is_registered(bundle) or bundle.removeprefix(REGISTRY_PREFIX).isdecimal()):
            raise ValueError(f"only an alias of the registry can be followed, such as champion, not {bundle}")
        return seconds

    @field_validator("api_keys")
    @classmethod
    def _are_digests(cls, value: str) -> str:
        return setting_values.digests(value) if value else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        return setting_values.origins(value)

    @field_validator("trusted_proxies")
    @classmethod
    def _are_proxies(cls, value: str) -> str:
        return setting_values.proxies(value)

    @field_validator("registry_webhook", "drift_webhook", "otlp_endpoint")
    @classmethod
    def _is_web_address(cls, value: str | None) -> str | None:
        return value and setting_values.web_address(value)

    @field_validator("log_url", "registry_url")
    @classmethod
    def _is_database_url(cls, value: str) -> str:
        return setting_values.database_url(value)

    @field_validator("api_key", "admin_token", "registry_webhook_token", "drift_webhook_token")
    @classmethod
    def _is_not_blank(cls, value: SecretStr | None) -> SecretStr | None:
        # A file that a secret was made of often ends with a line break, which no header can hold.
        stripped = value and SecretStr(value.get_secret_value().strip())
        if stripped is not None and not stripped.get_secret_value():
            raise ValueError("is blank; remove the variable, or set a value")
        return stripped

    @field_validator("*", mode="wrap")
    @classmethod
    def _put_off(cls, value: Any, check: ValidatorFunctionWrapHandler, given: ValidationInfo) -> Any:
        name = str(given.field_name)
        if name in _PORTS and setting_values.is_service_link(value):
            return _Replaced(f"{PREFIX}{name.upper()}={value} is a service link of Kubernetes", is_error=False)
        try:
            return check(value)
        except ValidationError as error:
            is_secret = name in _MAY_HOLD_SECRETS or SecretStr in get_args(cls.model_fields[name].annotation)
            return _Replaced(setting_values.problem_of(error, value, is_secret=is_secret), is_error=True)

    @model_validator(mode="after")
    def _set_aside(self) -> Settings:
        for name, value in list(self.__dict__.items()):
            if isinstance(value, _Replaced):
                self.__pydantic_fields_set__.discard(name)
                if value.is_error:
                    self._wrong[name] = value.reason
                    del self.__dict__[name]
                else:
                    self._ignored[name] = value.reason
                    self.__dict__[name] = type(self).model_fields[name].default
        return self

    if not TYPE_CHECKING:  # which would take any name for a setting

        def __getattr__(self, name: str) -> Any:
            if name in type(self).model_fields and name in self._wrong:
                alias = type(self).model_fields[name].validation_alias
                variables = alias.choices if isinstance(alias, AliasChoices) else [f"{PREFIX}{name.upper()}"]
                raise InvalidRequestError(f"{' or '.join(map(str, variables))} {self._wrong[name]}")
            return super().__getattr__(name)

    def check(self, names: Iterable[str]) -> None:
        """Refuse wrong values before any of them is needed.

        Args:
            names: The settings that a command uses.

        Raises:
            InvalidRequestError: The value of one of them is wrong.
        """
        for name in names:
            getattr(self, name)

    def problem(self, name: str) -> str | None:
        """What is wrong with the value of a setting, to follow its name."""
        return self._wrong.get(name)

    def warnings(self, ports: Iterable[str]) -> list[str]:
        """What a service should tell at its start: values that are ignored, and variables whose names are misspelt.

        Args:
            ports: The settings of the ports that it listens on.
        """
        ignored = [
            f"{self._ignored[name]} and is ignored: listening on {getattr(self, name) or 'no port of its own'}; "
            "set enableServiceLinks: false in the pod, or give the port as an option"
            for name in ports
            if name in self._ignored
        ]
        return [*ignored, *setting_values.misspelt_variables(type(self).model_fields)]
