"""`onesheet cloud` against stand-ins of Google's services: official clients, real gRPC, an emulated bucket."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
import tarfile
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
import typer
import yaml
from google.cloud import storage
from google.cloud.devtools import cloudbuild_v1
from google.cloud.logging_v2.types import LogEntry
from google.iam.v1 import policy_pb2
from google.logging.type import log_severity_pb2
from google.protobuf import json_format
from typer.testing import CliRunner

from onesheet.cli import app, cloud_work
from onesheet.cloud import builds, cost
from onesheet.cloud.config import CloudConfig, read_place
from onesheet.cloud.google import Google, read_secret
from onesheet.configs import default_config_dir, read_config
from onesheet.errors import CloudError, ConfigError, OnesheetError
from onesheet.settings import Settings
from tests.processes import run_command

ROOT = Path(__file__).parents[2]
PLACE = "projects/our-films/locations/europe-west4"
SERVICES = ("api", "drift", "frontend")


def _stand_in_module() -> Any:
    specification = importlib.util.spec_from_file_location(
        "google_stand_in", Path(__file__).with_name("google_stand_in.py")
    )
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


stand_in_module = _stand_in_module()


@pytest.fixture
def stand_in(emulator: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Google Cloud, with an empty project `our-films`."""
    stand_in = stand_in_module.StandIn()
    server, address = stand_in_module.serve(stand_in)
    monkeypatch.setenv("ONESHEET_CLOUD_EMULATOR", address)
    monkeypatch.setenv("ONESHEET_CLOUD_PROJECT", "our-films")
    monkeypatch.setenv("ONESHEET_CLOUD_BUCKET", "onesheet-films")
    yield stand_in
    server.stop(None).wait()


@pytest.fixture
def cloud() -> Callable[..., list[str]]:
    """`cloud("deploy", "--yes")`: lines of standard output of a command that succeeds."""

    def run(*arguments: str) -> list[str]:
        done = CliRunner().invoke(app, ["cloud", *arguments])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout.splitlines()

    return run


@pytest.fixture
def ready(stand_in: Any, cloud: Callable[..., list[str]]) -> Any:
    """The project after `bootstrap`, with a value in every secret."""
    cloud("bootstrap")
    for name in read_config(default_config_dir() / "cloud.yaml", CloudConfig).secrets:
        version = f"projects/our-films/secrets/{name}/versions/latest"
        stand_in.things[version] = stand_in_module.secrets.SecretVersion(name=version)
    stand_in.asked.clear()
    return stand_in


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("builds", "jobs", "observe"):
        monkeypatch.setattr(f"onesheet.cloud.{module}._POLL_SECONDS", 0.0)


def shown(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def as_sent(stand_in: Any) -> list[dict[str, Any]]:
    """What changed something, as JSON."""
    kinds = ("Create", "Update", "Delete", "Add", "Batch")
    return [
        json_format.MessageToDict(type(request).pb(request))
        for method, request in stand_in.asked
        if method.split("/")[1].startswith(kinds)
    ]


# -------------------------------------------------------------------------------------------------- bootstrap


def test_bootstrap_makes_everything_and_a_second_time_changes_nothing(stand_in, cloud):
    cloud("bootstrap")
    things, policies = dict(stand_in.things), dict(stand_in.policies)
    assert f"{PLACE}/repositories/onesheet" in things
    assert {name.rpartition("/")[2].partition("@")[0] for name in things if "serviceAccounts" in name} == {
        f"onesheet-{role}" for role in ("build", "train", "api", "drift", "frontend", "scheduler")
    }
    assert "projects/our-films/secrets/onesheet-log-url" in things
    collected = yaml.safe_load(things["value of projects/our-films/secrets/onesheet-api-metrics"].data)
    assert (collected["kind"], collected["spec"]["endpoints"][0]["port"]) == ("RunMonitoring", 8000)

    cloud("bootstrap")
    assert things.keys() == stand_in.things.keys()
    assert policies == stand_in.policies
    assert len(stand_in.requests("SecretManagerService/AddSecretVersion")) == 2  # of the two collectors


def test_what_google_goes_on_with_is_waited_for(stand_in, cloud):
    stand_in.slow = True
    cloud("bootstrap")
    assert len(stand_in.requests("Operations/GetOperation")) == 2


def test_rights_are_few(stand_in, cloud):
    cloud("bootstrap")
    granted = {
        (resource, one.role, member.partition(":")[2].partition("@")[0])
        for resource, policy in stand_in.policies.items()
        for one in policy.bindings
        for member in one.members
    }
    assert not [one for one in granted if re.search(r"roles/(owner|editor|viewer)$|[aA]dmin", one[1])]
    of_project = {(role, account) for resource, role, account in granted if resource == "projects/our-films"}
    assert of_project == {
        ("roles/logging.logWriter", "onesheet-build"),
        ("roles/run.viewer", "onesheet-frontend"),
        ("roles/monitoring.metricWriter", "onesheet-api"),
        ("roles/monitoring.metricWriter", "onesheet-drift"),
    }
    readers = {account for resource, _, account in granted if resource.endswith("/onesheet-api-keys")}
    assert readers == {"onesheet-api"}

    policy = storage.Client(project="our-films").bucket("onesheet-films").get_iam_policy(requested_policy_version=3)
    in_bucket = {(one["role"], *one["members"]): one["condition"]["expression"] for one in policy.bindings}
    member = "serviceAccount:onesheet-train@our-films.iam.gserviceaccount.com"
    assert "/objects/runs/" in in_bucket["roles/storage.objectUser", member]
    assert "/objects/runs/" not in in_bucket["roles/storage.objectViewer", member]
    assert "/objects/data/" in in_bucket["roles/storage.objectViewer", member]


def test_rights_that_others_have_stay_and_a_race_is_run_again(stand_in, cloud):
    other = policy_pb2.Binding(role="roles/viewer", members=["user:somebody@example.com"])
    stand_in.policies["projects/our-films"] = policy_pb2.Policy(bindings=[other], etag=b"7")
    stand_in.refusals["Projects/SetIamPolicy"] = [grpc.StatusCode.ABORTED]
    cloud("bootstrap")
    bindings = stand_in.policies["projects/our-films"].bindings
    assert other in bindings
    assert "roles/run.viewer" in {one.role for one in bindings}


def test_the_bucket_is_private_and_forgets_sources(stand_in, cloud, monkeypatch):
    sent = []
    send = requests.adapters.HTTPAdapter.send

    def record(self: Any, request: Any, **options: Any) -> Any:
        if request.method == "POST" and request.path_url.startswith("/storage/v1/b?"):
            sent.append(json.loads(request.body))
        return send(self, request, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", record)
    [dry] = [one for one in shown(cloud("bootstrap", "--dry-run")) if one["call"] == "storage.buckets.insert"]
    cloud("bootstrap")
    [request] = sent
    assert request == dry["request"]
    assert request["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    assert request["lifecycle"]["rule"][0]["condition"] == {"age": 30, "matchesPrefix": ["source/"]}
    assert request["location"] == "europe-west4"


def test_no_permission_is_told_in_one_sentence_and_it_goes_on_from_there(stand_in, cloud):
    stand_in.refusals["ArtifactRegistry/CreateRepository"] = [grpc.StatusCode.PERMISSION_DENIED]
    with pytest.raises(CloudError, match="repository onesheet: no permission: ") as raised:
        cloud("bootstrap")
    assert "\n" not in raised.value.message
    cloud("bootstrap")
    assert f"{PLACE}/repositories/onesheet" in stand_in.things


# ---------------------------------------------------------------------------------------------------- dry run


@pytest.mark.parametrize(
    "command",
    [
        ("bootstrap",),
        ("build", "--tag", "abc", "--no-wait", "--yes"),
        ("build", "--trigger", "team/onesheet"),
        ("train", "experiment=smoke", "--data", "gs://onesheet-films/data/x", "--tag", "abc", "--yes"),
        ("sweep", "--data", "gs://onesheet-films/data/x", "--tag", "abc", "--yes"),
        ("deploy", "--tag", "abc", "--yes"),
        ("teardown", "--everything", "--yes"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_dry_run_shows_exactly_what_is_sent_and_sends_nothing(ready, cloud, monkeypatch, command):
    monkeypatch.chdir(ROOT)
    for name in [name for name in ready.things if name.startswith("value of")]:
        del ready.things[name]  # else `bootstrap` had nothing to add
    before = dict(ready.things)
    dry = shown(cloud(*command, "--dry-run"))
    assert ready.asked == []
    assert ready.things == before
    cloud(*command)
    sent = as_sent(ready)
    wanted = [one["request"] for one in dry if "type" in one]
    assert wanted
    assert [one for one in wanted if one not in sent] == []
    known = [*wanted, *(one["if it is there"]["request"] for one in dry if "if it is there" in one)]
    # Which policies are updated or removed is known only there.
    assert [one for one in sent if one not in known and "alertPolicies/" not in str(one)] == []


# ----------------------------------------------------------------------------------------------------- images


def test_a_build_takes_the_checkout_and_is_followed_to_its_end(ready, cloud, monkeypatch, no_pauses):
    monkeypatch.chdir(ROOT)
    lines = cloud("build", "--tag", "abc", "--image", "api", "--image", "train", "--yes")
    [asked] = ready.requests("CloudBuild/CreateBuild")
    assert [step.id for step in asked.build.steps] == ["builder", "api", "train"]
    assert (
        asked.build.service_account
        == "projects/our-films/serviceAccounts/onesheet-build@our-films.iam.gserviceaccount.com"
    )
    assert asked.build.substitutions["_IMAGES"] == "europe-west4-docker.pkg.dev/our-films/onesheet"
    source = asked.build.source.storage_source
    assert (source.bucket, source.object_) == ("onesheet-films", "source/abc.tgz")
    assert "api: success" in lines
    assert "next: onesheet cloud deploy --tag abc" in lines

    archive = storage.Client(project="our-films").bucket(source.bucket).blob(source.object_).download_as_bytes()
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        names = packed.getnames()
    assert {"pyproject.toml", "uv.lock", "deploy/docker/Dockerfile", "src/onesheet/__init__.py"} <= set(names)
    assert not [name for name in names if name.startswith((".git/", ".venv/", "data/"))]


def test_a_failed_build_says_where_to_look_and_what_else_there_is(ready, cloud, monkeypatch, no_pauses):
    monkeypatch.chdir(ROOT)
    ready.build_ends = "FAILURE"
    with pytest.raises(CloudError, match=r"the build failure: .*onesheet cloud logs build-\d+.*--local"):
        cloud("build", "--tag", "abc", "--image", "api", "--yes")


def test_the_file_of_the_trigger_is_what_is_submitted():
    written = (ROOT / "deploy/gcp/cloudbuild.yaml").read_text()
    assert written == builds.document(), "run: inv cloudbuild"
    assert json_format.ParseDict(yaml.safe_load(written), cloudbuild_v1.Build.pb()()) == builds.build()._pb


def test_the_same_images_as_everywhere_else():
    spec = importlib.util.spec_from_file_location("tasks", ROOT / "tasks.py")
    assert spec
    assert spec.loader
    tasks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tasks)
    assert list(builds.EXTRAS) == list(tasks.IMAGES)
    known = read_project()["optional-dependencies"]
    named = [name for extras in builds.EXTRAS.values() for name in extras.replace("--extra", "").split()]
    assert set(named) <= set(known)


def read_project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def test_a_local_build_runs_docker_for_each_image_and_pushes_it(cloud, stand_in, monkeypatch, tmp_path):
    log = tmp_path / "log"
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {log}\ncase "$*" in *drift*) exit 1;; esac\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(ROOT)
    cloud("build", "--local", "--tag", "abc", "--image", "api")
    build, push = log.read_text().splitlines()
    address = "europe-west4-docker.pkg.dev/our-films/onesheet/onesheet-api:abc"
    assert build.startswith("build --file=")
    assert f"--target=api --build-arg=EXTRAS={builds.EXTRAS['api']} --tag={address}" in build
    assert push == f"push {address}"
    with pytest.raises(CloudError, match="docker build failed"):
        cloud("build", "--local", "--tag", "abc", "--image", "drift")


def test_images_are_tagged_with_the_commit_and_changes_told_apart(cloud, stand_in, tmp_path, monkeypatch):
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        run_command(["git", *identity, *arguments], cwd=tmp_path, check=True)

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no commit of onesheet here .*say --tag"):
        cloud("deploy", "--no-alerts", "--dry-run")
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--message", "first")
    clean = builds.new_tag(tmp_path)
    assert clean == builds.commit(tmp_path)
    (tmp_path / "file").write_text("two")
    assert re.fullmatch(rf"{clean}-\d+", builds.new_tag(tmp_path))
    assert builds.commit(tmp_path) == clean
    assert f"onesheet-api:{clean}" in cloud("deploy", "--service", "api", "--dry-run")[0]
    with pytest.raises(ConfigError, match=r"there is no deploy/docker/Dockerfile"):
        cloud("build", "--yes")


def test_a_trigger_wants_a_repository(cloud, stand_in, monkeypatch):
    monkeypatch.chdir(ROOT)
    cloud("build", "--trigger", "team/onesheet")
    [asked] = ready_trigger = stand_in.requests("CloudBuild/CreateBuildTrigger")
    assert len(ready_trigger) == 1
    assert (asked.trigger.github.owner, asked.trigger.github.name) == ("team", "onesheet")
    assert (ROOT / asked.trigger.filename).is_file()
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        cloud("build", "--trigger", "onesheet")


# --------------------------------------------------------------------------------------------------- training


def test_a_training_uploads_its_posters_once_and_starts_a_job(ready, cloud, made_up_posters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "splits.csv").write_text("film,split\n")
    command = ("train", "experiment=smoke", "--name", "first", "--raw", str(made_up_posters), "--tag", "abc", "--yes")
    cloud(*command)
    [asked] = ready.requests("JobService/CreateCustomJob")
    [pool] = asked.custom_job.job_spec.worker_pool_specs
    assert pool.container_spec.image_uri == "europe-west4-docker.pkg.dev/our-films/onesheet/onesheet-train:abc"
    assert list(pool.container_spec.command) == ["onesheet", "cloud", "work"]
    address = next(one for one in pool.container_spec.args if one.startswith("--data=")).removeprefix("--data=")
    assert pool.container_spec.args[-1] == "experiment=smoke"
    assert "--run=gs://onesheet-films/runs/first" in pool.container_spec.args
    understood = typer.main.get_command(cloud_work.app).make_context("work", list(pool.container_spec.args)).params
    assert (understood["data"], understood["run"]) == (address, "gs://onesheet-films/runs/first")
    assert understood["overrides"] == [
        "trainer.nodes=1",
        "trainer.devices=1",
        "trainer.accelerator=cpu",
        "experiment=smoke",
    ]
    assert asked.custom_job.job_spec.service_account == "onesheet-train@our-films.iam.gserviceaccount.com"
    assert asked.custom_job.job_spec.scheduling.timeout == timedelta(hours=12)

    bucket = storage.Client(project="our-films").bucket("onesheet-films")
    prefix = address.removeprefix("gs://onesheet-films/")
    there = {blob.name: blob.updated for blob in bucket.list_blobs(prefix=f"{prefix}/")}
    assert len(there) == 240 + 2
    cloud(*command)
    assert there == {blob.name: blob.updated for blob in bucket.list_blobs(prefix=f"{prefix}/")}


def test_chief_and_workers_on_gpus(ready, cloud):
    cloud("train", "--data", "gs://b/data", "--machine", "l4", "--workers", "3", "--spot", "--tag", "abc", "--yes")
    [asked] = ready.requests("JobService/CreateCustomJob")
    chief, workers = asked.custom_job.job_spec.worker_pool_specs
    assert (chief.replica_count, workers.replica_count) == (1, 3)
    assert chief.container_spec == workers.container_spec
    assert {"trainer.nodes=4", "trainer.devices=1", "trainer.accelerator=gpu"} <= set(chief.container_spec.args)
    assert (chief.machine_spec.accelerator_type.name, chief.machine_spec.accelerator_count) == ("NVIDIA_L4", 1)
    assert asked.custom_job.job_spec.scheduling.strategy.name == "SPOT"


def test_a_training_is_followed_to_its_end(ready, cloud, no_pauses):
    command = ("train", "--data", "gs://b/data", "--tag", "abc", "--yes", "--wait")
    lines = cloud(*command)
    assert lines[-2:] == ["pending", "succeeded"]
    ready.job_ends = "JOB_STATE_FAILED"
    with pytest.raises(CloudError, match=r"training failed: see its log; onesheet cloud logs \d+"):
        cloud(*command)


def test_a_sweep_searches_the_space_of_the_file(ready, cloud):
    cloud("sweep", "--data", "gs://b/data", "--trials", "9", "--parallel", "3", "--tag", "abc", "--yes")
    [asked] = ready.requests("JobService/CreateHyperparameterTuningJob")
    job = asked.hyperparameter_tuning_job
    assert (job.max_trial_count, job.parallel_trial_count) == (9, 3)
    [metric] = job.study_spec.metrics
    assert (metric.metric_id, metric.goal.name) == ("val_map_macro", "MAXIMIZE")
    parameters = {one.parameter_id: one for one in job.study_spec.parameters}
    assert parameters["optimizer.lr"].scale_type.name == "UNIT_LOG_SCALE"
    assert parameters["optimizer.lr"].double_value_spec.min_value == pytest.approx(3e-4)
    assert list(parameters["data.batch_size"].categorical_value_spec.values) == ["32", "64", "128"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--machine", "abacus"), "no machine abacus; there are cpu, t4"),
        (("--name", "Über"), "small letters"),
        (("epochs",), "say KEY=VALUE"),
    ],
)
def test_what_no_job_can_be_is_refused_before_anything_is_sent(ready, cloud, arguments, message):
    with pytest.raises(ConfigError, match=message):
        cloud("train", *arguments, "--data", "gs://b/data", "--tag", "abc", "--yes")
    assert ready.asked == []


def test_a_job_gets_the_values_of_its_secrets(ready, cloud, tmp_path):
    config = yaml.safe_load((default_config_dir() / "cloud.yaml").read_text())
    config["training"]["secrets"] = ["onesheet-wandb-api-key"]
    (tmp_path / "cloud.yaml").write_text(yaml.safe_dump(config))
    cloud("train", "--data", "gs://b/data", "--tag", "abc", "--yes", "--config", str(tmp_path / "cloud.yaml"))
    [asked] = ready.requests("JobService/CreateCustomJob")
    arguments = asked.custom_job.job_spec.worker_pool_specs[0].container_spec.args
    [named] = [one.removeprefix("--secret=") for one in arguments if one.startswith("--secret=")]
    variable, _, name = named.partition("=")
    assert variable == "WANDB_API_KEY"
    ready.things[f"value of {name}"] = stand_in_module.secrets.SecretPayload(data=b"the key")
    assert read_secret(name, Settings().cloud_emulator) == "the key"
    with pytest.raises(CloudError, match="not found"):
        read_secret(f"{name}-2", Settings().cloud_emulator)
    with pytest.raises(ConfigError, match="projects/PROJECT/secrets/NAME"):
        read_secret("the-key", Settings().cloud_emulator)


def test_no_posters(ready, cloud, tmp_path):
    with pytest.raises(OnesheetError, match=r"no train\.csv in"):
        cloud("train", "--raw", str(tmp_path), "--tag", "abc", "--yes")


# --------------------------------------------------------------------------------------------------- services


def test_services_come_with_probes_secrets_and_accounts(ready, cloud):
    lines = cloud("deploy", "--tag", "abc", "--bundle", "gs://b/models/one", "--no-alerts", "--yes")
    assert [line for line in lines if line.startswith("onesheet-api: https://onesheet-api-")]
    services = {one.service.name.rpartition("-")[2]: one.service for one in ready.requests("Services/UpdateService")}
    assert tuple(services) == SERVICES
    api, collector = services["api"].template.containers
    variables = {one.name: one.value or one.value_source.secret_key_ref.secret for one in api.env}
    assert variables["ONESHEET_BUNDLE"] == "gs://b/models/one"
    assert variables["ONESHEET_LOG_URL"] == "onesheet-log-url"
    assert (api.startup_probe.http_get.path, api.liveness_probe.http_get.path) == ("/readyz", "/livez")
    assert services["api"].template.max_instance_request_concurrency == 40
    assert services["api"].template.scaling.max_instance_count == 10
    assert collector.image.count("cloud-run-gmp-sidecar")
    assert services["api"].invoker_iam_disabled
    assert not services["drift"].invoker_iam_disabled
    assert services["frontend"].template.session_affinity
    [page] = services["frontend"].template.containers
    assert page.env[1].value == "cloudrun://our-films/europe-west4/onesheet-api"

    [job] = ready.requests("Jobs/UpdateJob")
    [container] = job.job.template.template.containers
    assert [*container.command, *container.args] == ["onesheet", "drift", "--json"]
    [schedule] = ready.requests("CloudScheduler/CreateJob")
    assert schedule.job.http_target.uri == f"https://run.googleapis.com/v2/{job.job.name}:run"
    account = schedule.job.http_target.oauth_token.service_account_email
    [starters] = ready.policies[job.job.name].bindings
    assert (starters.role, list(starters.members)) == ("roles/run.invoker", [f"serviceAccount:{account}"])


def test_the_page_finds_the_api_that_was_deployed(ready, cloud):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.run_v2 import ServicesClient
    from google.cloud.run_v2.services.services.transports import ServicesGrpcTransport

    from onesheet.ui.address import find_api

    cloud("deploy", "--tag", "abc", "--service", "api", "--service", "frontend", "--yes")
    page = ready.things[f"{PLACE}/services/onesheet-frontend"].template.containers[0]
    named = next(one.value for one in page.env if one.name == "ONESHEET_API_URL")
    with grpc.insecure_channel(Settings().cloud_emulator) as channel:
        transport = ServicesGrpcTransport(channel=channel, credentials=AnonymousCredentials())
        assert find_api(named, ServicesClient(transport=transport)) == "https://onesheet-api-abc123-ez.a.run.app"


def test_alerts_and_dashboard_are_brought_up_to_date_not_doubled(ready, cloud, monkeypatch):
    monkeypatch.chdir(ROOT)
    for _ in range(2):
        cloud("deploy", "--tag", "abc", "--yes")
    policies = ready._all(stand_in_module.monitoring.AlertPolicy)
    files = list((ROOT / "deploy/gcp/monitoring/policies").glob("*.json"))
    assert len({one.display_name for one in policies}) == len(policies) == len(files)
    assert len(ready.requests("AlertPolicyService/UpdateAlertPolicy")) == len(files)
    assert "projects/our-films/dashboards/onesheet" in ready.things


def test_a_secret_without_a_value_is_told_before_anything_is_deployed(ready, cloud):
    del ready.things["projects/our-films/secrets/onesheet-log-url/versions/latest"]
    with pytest.raises(
        CloudError, match=r"onesheet-log-url \(ONESHEET_LOG_URL\) has no value.*gcloud secrets versions"
    ):
        cloud("deploy", "--tag", "abc", "--yes")
    assert ready.requests("Services/UpdateService") == []


def test_an_unknown_service(ready, cloud):
    with pytest.raises(ConfigError, match="web is no service; there are api, drift, frontend"):
        cloud("deploy", "--tag", "abc", "--service", "web", "--yes")


def test_settings_of_services_are_settings_of_onesheet():
    config = read_config(default_config_dir() / "cloud.yaml", CloudConfig)
    named = {name for one in config.services.values() for name in one.env} | set(config.secrets.values())
    known = {f"ONESHEET_{name.upper()}" for name in Settings.model_fields} | {"WANDB_API_KEY"}
    assert named <= known


def test_ports_and_probes_are_those_of_the_images():
    config = read_config(default_config_dir() / "cloud.yaml", CloudConfig)
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    for service in config.services.values():
        stage = dockerfile.partition(f"FROM runtime AS {service.image}\n")[2].partition("\nFROM ")[0]
        assert f"EXPOSE {service.port}\n" in stage
        assert re.search(rf'"/opt/healthy\.py", "\w+", "{service.startup_path}"', stage)


# -------------------------------------------------------------------------------------------- status and logs


def test_status_lists_what_is_there(ready, cloud, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cloud("status") == ["nothing is there yet; next: onesheet cloud bootstrap"]
    cloud("deploy", "--tag", "abc", "--yes", "--no-alerts")
    cloud("build", "--tag", "abc", "--image", "api", "--yes", "--no-wait")
    cloud("train", "--data", "gs://b/data", "--name", "first", "--tag", "abc", "--yes")
    cloud("sweep", "--data", "gs://b/data", "--name", "second", "--tag", "abc", "--yes")
    rows = shown(cloud("status", "--json"))
    found = {(row["kind"], row["name"].rstrip("0123456789")): row for row in rows}
    assert {kind for kind, _ in found} == {"service", "job", "schedule", "build", "training", "sweep"}
    assert found["service", "onesheet-api"]["state"] == "ready"
    assert "onesheet-api:abc" in found["service", "onesheet-api"]["detail"]
    assert found["job", "onesheet-drift-check"]["state"] == "never run"
    assert found["build", "build-"]["state"] == "working"
    assert any("onesheet-api" in line for line in cloud("status"))


def test_logs_come_oldest_first_and_newest_are_kept(ready, cloud):
    start = datetime.now(UTC) - timedelta(minutes=5)
    for number in range(5):
        ready.entries.append(
            LogEntry(
                insert_id=str(number),
                timestamp=start + timedelta(seconds=number),
                severity=log_severity_pb2.ERROR if number == 4 else log_severity_pb2.INFO,
                json_payload={"event": f"event {number}", "route": "/predict"},
            )
        )
    lines = cloud("logs", "api", "--limit", "3")
    assert [line[20:] for line in lines] == [
        "info     event 2 route=/predict",
        "info     event 3 route=/predict",
        "error    event 4 route=/predict",
    ]
    [asked] = ready.requests("LoggingServiceV2/ListLogEntries")
    assert 'resource.labels.service_name="onesheet-api"' in asked.filter


def test_followed_logs_go_on_without_doubles(ready, monkeypatch, no_pauses):
    from onesheet.cloud import observe

    settings = Settings()
    place = read_place(settings)
    start = datetime.now(UTC)

    def entry(number: int) -> LogEntry:
        when = start + timedelta(seconds=number)
        return LogEntry(insert_id=str(number), timestamp=when, text_payload=f"line {number}\x1b[31m")

    ready.entries.append(entry(1))
    google = Google("our-films", place.region, settings.cloud_emulator)
    lines = observe.logs(google, place, "drift-check", start, 10, follow=True)
    assert next(lines)[2].startswith("line 1")
    ready.entries += [entry(3), entry(2)]
    assert [next(lines)[2][:6], next(lines)[2][:6]] == ["line 2", "line 3"]
    ready.entries.append(entry(4))
    assert next(lines)[2].startswith("line 4")


@pytest.mark.parametrize(
    ("what", "kind"),
    [("api", "cloud_run_revision"), ("drift-check", "cloud_run_job"), ("123", "ml_job"), ("ab-12", "build")],
)
def test_each_kind_has_its_log(ready, cloud, what, kind):
    cloud("logs", what)
    [asked] = ready.requests("LoggingServiceV2/ListLogEntries")
    assert f'resource.type="{kind}"' in asked.filter


@pytest.mark.parametrize("arguments", [("logs", 'a" OR "b'), ("logs", "api", "--since", "soon")])
def test_what_no_log_can_be(ready, cloud, arguments):
    with pytest.raises(OnesheetError, match="say a"):
        cloud(*arguments)
    assert ready.asked == []


# --------------------------------------------------------------------------------------------------- teardown


def test_teardown_leaves_the_bucket_and_may_be_repeated(ready, cloud, monkeypatch):
    monkeypatch.chdir(ROOT)
    cloud("deploy", "--tag", "abc", "--yes")
    cloud("build", "--trigger", "team/onesheet")
    for _ in range(2):
        cloud("teardown", "--yes")
    kinds = ("/services/", "/jobs/", "/triggers/", "/alertPolicies/", "/dashboards/")
    assert [name for name in ready.things if any(kind in name for kind in kinds)] == []
    assert "projects/our-films/secrets/onesheet-log-url" in ready.things
    cloud("teardown", "--everything", "--yes")
    left = [name for name in ready.things if not name.startswith("value of") and "/versions/" not in name]
    assert left == []
    assert storage.Client(project="our-films").bucket("onesheet-films").exists()


def test_what_costs_or_removes_is_asked_for_first(ready, cloud):
    for command in (("teardown",), ("deploy", "--tag", "abc"), ("train", "--data", "gs://b/d", "--tag", "abc")):
        with pytest.raises(OnesheetError, match="say --yes"):
            cloud(*command)
    assert ready.asked == []


# ------------------------------------------------------------------------------------------------------- cost


def test_cost_of_services_follows_the_configuration(cloud, tmp_path):
    def totals(**changes: Any) -> tuple[float, float]:
        config = yaml.safe_load((default_config_dir() / "cloud.yaml").read_text())
        config["services"]["api"].update(changes)
        (tmp_path / "cloud.yaml").write_text(yaml.safe_dump(config))
        [line] = cloud("cost", "--json", "--config", str(tmp_path / "cloud.yaml"))
        together = json.loads(line)["lines"][-1]
        assert together["what"] == "together"
        return together["least"], together["most"]

    least, most = totals()
    assert 0 < least < most
    assert totals(min_instances=2)[0] > least
    assert totals(max_instances=20)[1] > most
    # By hand: an instance more is 2.5 CPUs and 2.25 GiB for a month, with the collector beside it.
    second = cost.read_prices().run.instance_based
    by_hand = (2.5 * second.vcpu_second + 2.25 * second.gib_second) * 730 * 3600
    factor = cost.read_prices().regions["europe-west4"]
    assert totals(min_instances=2)[0] - least == pytest.approx(by_hand * factor)


def test_cost_of_a_training_is_machines_times_hours(cloud):
    def total(*options: str) -> dict[str, float]:
        [line] = cloud("cost", "--json", "--machine", "t4", "--region", "us-central1", *options)
        return dict(json.loads(line)["lines"][-1])

    one = total()
    prices = cost.read_prices().vertex
    hour = prices.machines["n1-standard-8"] + prices.accelerators["NVIDIA_TESLA_T4"] + prices.disk_gb_month * 100 / 730
    assert one["least"] == pytest.approx(hour)
    assert one["most"] == pytest.approx(hour * 12)
    assert total("--workers", "3")["least"] == pytest.approx(hour * 4)
    assert total("--trials", "10", "--parallel", "2")["least"] == pytest.approx(hour * 2)
    assert total("--trials", "10", "--parallel", "2")["most"] == pytest.approx(hour * 120)


def test_cost_has_a_date_and_says_what_it_leaves_out(cloud):
    text = " ".join(" ".join(cloud("cost")).split())
    assert f"noted on {cost.read_prices().noted:%d %B %Y}" in text
    assert "without free tiers" in text
    elsewhere = " ".join(" ".join(cloud("cost", "--region", "moon-west1")).split())
    assert "since the table does not have moon-west1" in elsewhere


def test_every_machine_of_the_configuration_has_a_price(cloud):
    config = read_config(default_config_dir() / "cloud.yaml", CloudConfig)
    for machine in config.training.machines:
        assert re.search(r"\d", " ".join(cloud("cost", "--machine", machine))), machine


# ------------------------------------------------------------------------------------------------ without it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("name: Onesheet", "name: "),
        ("services: {}\nunknown: 1", "unknown: "),
        ("drift_job: {schedule: x, cpu: 1, memory: 1Gi, secrets: [none]}", "none is not among the secrets"),
    ],
)
def test_a_wrong_configuration_is_told(cloud, tmp_path, change, message):
    config = {**yaml.safe_load((default_config_dir() / "cloud.yaml").read_text()), **yaml.safe_load(change)}
    (tmp_path / "cloud.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=message):
        cloud("bootstrap", "--project", "our-films", "--dry-run", "--config", str(tmp_path / "cloud.yaml"))


def test_no_project(cloud, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="ONESHEET_CLOUD_PROJECT"):
        cloud("status")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("project", "example.com:posters", "ids of a domain, DOMAIN:ID, are not supported"),
        ("project", "My-Project", "'My-Project' cannot be the id of a project: it has 6 to 30 small letters"),
        ("project", "123456789", "`gcloud projects list` shows its id"),
        ("project", "films", "'films' cannot be the id"),
        ("project", "my-project-", "'my-project-' cannot be the id"),
        ("project", "a" * 31, "cannot be the id"),
        ("region", "europe-west4-a", "'europe-west4-a' cannot be a region .* such as europe-west4"),
        ("region", "EU", "'EU' cannot be a region"),
        ("bucket", "gs://posters", "'gs://posters' cannot be the name of a bucket: .* without gs://"),
        ("bucket", "My_Posters", "'My_Posters' cannot be the name of a bucket"),
        ("bucket", "goog-posters", "does not begin with goog"),
        ("bucket", "no", "cannot be the name of a bucket"),
    ],
)
def test_names_that_google_cannot_have_given_are_refused(setting, value, message):
    named = {"cloud_project": "my-project", f"cloud_{setting}": value}
    with pytest.raises(ConfigError, match=message):
        read_place(Settings(_env_file=None, **named))


def test_names_that_google_may_have_given_are_taken():
    for project, bucket in (("a-b-c1", "posters.example.com"), ("a" * 30, "my_posters"), ("my-project", None)):
        place = read_place(Settings(_env_file=None, cloud_project=project, cloud_bucket=bucket))
        assert (place.project, place.bucket) == (project, bucket or "my-project-onesheet")


def test_no_credentials(cloud, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(CloudError, match="gcloud auth application-default login"):
        cloud("status", "--project", "our-films")
