"""What runs on Cloud Run: the services, the scheduled comparison, and the alerts over all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from google.api_core.exceptions import AlreadyExists
from google.cloud import run_v2 as run
from google.cloud import scheduler_v1 as scheduler
from google.cloud import secretmanager_v1 as secretmanager

from onesheet.cloud.alerts import monitoring
from onesheet.cloud.config import Place, Service
from onesheet.cloud.google import Google
from onesheet.cloud.rights import Binding, Grant
from onesheet.cloud.steps import Call, Step
from onesheet.errors import CloudError, ConfigError

# Two of a small model fit into what remains of a minute and a half, also where the first start compiles and downloads.
_STARTUP_PERIODS: Final = 30
_PERIOD_SECONDS: Final = 3
_REQUEST_SECONDS: Final = 60
_CLOUDSQL: Final = "cloudsql"
_COLLECTOR: Final = "collector"
_COLLECTOR_FOLDER: Final = "/etc/rungmp"
_COLLECTOR_LIMITS: Final = {"cpu": "500m", "memory": "256Mi"}


def deploy(place: Place, tag: str, bundle: str, only: Sequence[str] = (), alerts: Path | None = None) -> Iterator[Step]:
    """Services, and unless only some of them are wanted, the scheduled comparison and the alerts.

    Args:
        place: Where.
        tag: Of the images.
        bundle: REF of the bundle that is served.
        only: Names of services; default: everything.
        alerts: Folder with the alerting policies and the dashboard; None leaves them as they are.

    Raises:
        ConfigError: There is no such service.
        DataError: A file of the alerts is not as expected.
    """
    for name in only:
        if name not in place.config.services:
            raise ConfigError(f"{name} is no service; there are {', '.join(place.config.services)}")
    yield from (_service(place, name, tag, bundle) for name in only or place.config.services)
    if only:
        return
    yield _drift_job(place, tag, bundle)
    yield _may_start(place)
    yield _schedule(place)
    if alerts:
        yield from monitoring(place.project, alerts, place.config.notification_channels)


def check_secrets(google: Google, place: Place, only: Sequence[str] = ()) -> None:
    """Whether every secret that a service wants has a value.

    Raises:
        CloudError: One has none; the message says how it gets one.
    """
    services = [place.config.services[name] for name in only or place.config.services]
    wanted = sorted({secret for service in services for secret in service.secrets})
    for name in wanted:
        request = secretmanager.GetSecretVersionRequest(name=f"{place.secret(name)}/versions/latest")
        try:
            google.call("secrets", "get_secret_version", request)
        except CloudError as error:
            variable = place.config.secrets[name]
            raise CloudError(
                f"the secret {name} ({variable}) has no value: {error.message}; "
                f"printf %s VALUE | gcloud secrets versions add {name} --project {place.project} --data-file=-"
            ) from error


def _service(place: Place, name: str, tag: str, bundle: str) -> Call:
    service = place.config.services[name]
    containers = [_container(place, name, service, tag, bundle)]
    volumes = _database(place)
    if service.metrics:
        containers.append(_collector(place))
        volumes.append(_collected(place, name))
    template = run.RevisionTemplate(
        service_account=place.account(name),
        scaling=run.RevisionScaling(min_instance_count=service.min_instances, max_instance_count=service.max_instances),
        max_instance_request_concurrency=service.concurrency,
        session_affinity=service.session_affinity,
        timeout=timedelta(seconds=_REQUEST_SECONDS),
        # Threads, mounts and inotify behave there as on Linux.
        execution_environment=run.ExecutionEnvironment.EXECUTION_ENVIRONMENT_GEN2,
        containers=containers,
        volumes=volumes,
    )
    latest = run.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST
    wanted = run.Service(
        name=place.service(name),
        labels=_labels(place, tag),
        ingress=run.IngressTraffic.INGRESS_TRAFFIC_ALL,
        invoker_iam_disabled=service.public,
        template=template,
        traffic=[run.TrafficTarget(type_=latest, percent=100)],
    )
    request = run.UpdateServiceRequest(service=wanted, allow_missing=True)
    return Call(f"service {name}", "run.services", "update_service", request)


def _container(place: Place, name: str, service: Service, tag: str, bundle: str) -> run.Container:
    variables = {"ONESHEET_LOG_JSON": "true", **_variables(place, name, bundle), **service.env}
    # Of the images; the collector beside it gets through without.
    starts = _probe(service.startup_path, service.port, _STARTUP_PERIODS)
    lives = _probe(service.liveness_path, service.port, 3)
    return run.Container(
        name=name,
        image=place.image(service.image, tag),
        ports=[run.ContainerPort(container_port=service.port)],
        resources=run.ResourceRequirements(
            limits={"cpu": f"{service.cpu:g}", "memory": service.memory},
            # A collector reads, and a log is written, between requests too.
            cpu_idle=not service.metrics,
            startup_cpu_boost=True,
        ),
        env=_env(place, variables, service.secrets),
        volume_mounts=_database_mount(place),
        startup_probe=starts,
        liveness_probe=lives,
    )


def _variables(place: Place, name: str, bundle: str) -> dict[str, str]:
    if name == "frontend":
        return {"ONESHEET_API_URL": f"cloudrun://{place.project}/{place.region}/{place.config.name}-api"}
    return {"ONESHEET_BUNDLE": bundle}


def _probe(path: str, port: int, failures: int) -> run.Probe:
    return run.Probe(
        http_get=run.HTTPGetAction(path=path, port=port),
        period_seconds=_PERIOD_SECONDS,
        timeout_seconds=_PERIOD_SECONDS,
        failure_threshold=failures,
    )


def _collector(place: Place) -> run.Container:
    return run.Container(
        name=_COLLECTOR,
        image=place.config.metrics_sidecar,
        resources=run.ResourceRequirements(limits=_COLLECTOR_LIMITS, cpu_idle=False),
        volume_mounts=[run.VolumeMount(name=_COLLECTOR, mount_path=_COLLECTOR_FOLDER)],
    )


def _collected(place: Place, name: str) -> run.Volume:
    item = run.VersionToPath(path="config.yaml", version="latest")
    return run.Volume(name=_COLLECTOR, secret=run.SecretVolumeSource(secret=place.metrics_secret(name), items=[item]))


def _drift_job(place: Place, tag: str, bundle: str) -> Call:
    job = place.config.drift_job
    container = run.Container(
        image=place.image("drift", tag),
        command=["onesheet"],
        args=["drift", "--json"],
        resources=run.ResourceRequirements(limits={"cpu": f"{job.cpu:g}", "memory": job.memory}),
        env=_env(place, {"ONESHEET_BUNDLE": bundle, "ONESHEET_LOG_JSON": "true"}, job.secrets),
        volume_mounts=_database_mount(place),
    )
    task = run.TaskTemplate(
        containers=[container],
        volumes=_database(place),
        service_account=place.account("drift"),
        timeout=timedelta(minutes=job.max_minutes),
        max_retries=1,
    )
    wanted = run.Job(
        name=place.drift_job,
        labels=_labels(place, tag),
        template=run.ExecutionTemplate(task_count=1, template=task),
    )
    return Call("job drift-check", "run.jobs", "update_job", run.UpdateJobRequest(job=wanted, allow_missing=True))


def _may_start(place: Place) -> Grant:
    bindings = (Binding("roles/run.invoker", f"serviceAccount:{place.account('scheduler')}"),)
    return Grant("who may start the drift check", "run.jobs", place.drift_job, bindings)


def _schedule(place: Place) -> Call:
    job = scheduler.Job(
        name=place.schedule,
        description="Compares production with the reference of the bundle",
        schedule=place.config.drift_job.schedule,
        time_zone=place.config.drift_job.time_zone,
        http_target=scheduler.HttpTarget(
            uri=f"https://run.googleapis.com/v2/{place.drift_job}:run",
            http_method=scheduler.HttpMethod.POST,
            oauth_token=scheduler.OAuthToken(
                service_account_email=place.account("scheduler"),
                scope="https://www.googleapis.com/auth/cloud-platform",
            ),
        ),
    )
    create = scheduler.CreateJobRequest(parent=place.location, job=job)
    update = scheduler.UpdateJobRequest(job=job)
    what = "schedule of the drift check"
    return Call(what, "scheduler", "create_job", create, AlreadyExists, Call(what, "scheduler", "update_job", update))


def _env(place: Place, variables: dict[str, str], secrets: Sequence[str]) -> list[run.EnvVar]:
    """Plain ones and secrets, which are read when an instance starts."""
    plain = [run.EnvVar(name=name, value=value) for name, value in variables.items()]
    kept = [
        run.EnvVar(
            name=place.config.secrets[name],
            value_source=run.EnvVarSource(secret_key_ref=run.SecretKeySelector(secret=name, version="latest")),
        )
        for name in secrets
    ]
    return plain + kept


def _database(place: Place) -> list[run.Volume]:
    if not place.config.cloud_sql:
        return []
    return [run.Volume(name=_CLOUDSQL, cloud_sql_instance=run.CloudSqlInstance(instances=place.config.cloud_sql))]


def _database_mount(place: Place) -> list[run.VolumeMount]:
    return [run.VolumeMount(name=_CLOUDSQL, mount_path="/cloudsql")] if place.config.cloud_sql else []


def _labels(place: Place, tag: str) -> dict[str, str]:
    return {"service": place.config.name, "image": tag.lower()}


def addresses(answers: Sequence[Any]) -> dict[str, str]:
    """Addresses of the services among the answers of steps, by name."""
    return {one.name.rpartition("/")[2]: one.uri for one in answers if isinstance(one, run.Service)}
