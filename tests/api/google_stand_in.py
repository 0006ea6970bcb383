"""A server that stands in for the services of Google Cloud that `onesheet.cloud` asks, over real gRPC.

It reads each request as the method's own type, refuses what that type does not know and what the services are known to
refuse, keeps what was made, and answers as they would; what takes time there is an operation that is not done at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.cloud import aiplatform_v1 as vertex
from google.cloud import artifactregistry_v1 as registry
from google.cloud import iam_admin_v1 as iam
from google.cloud import monitoring_dashboard_v1 as boards
from google.cloud import monitoring_v3 as monitoring
from google.cloud import run_v2 as run
from google.cloud import scheduler_v1 as scheduler
from google.cloud import secretmanager_v1 as secrets
from google.cloud import service_usage_v1 as usage
from google.cloud.devtools import cloudbuild_v1 as cloudbuild
from google.cloud.logging_v2 import types as logging
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, empty_pb2
from google.protobuf.unknown_fields import UnknownFieldSet

NAME = r"[a-z]([a-z0-9-]*[a-z0-9])?"
LABEL = r"[a-z0-9_-]{0,63}"


class RefusedError(Exception):
    """A service says no."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Later:
    """What comes out of an operation once it is done."""

    result: Any
    metadata: Any = None


@dataclass
class StandIn(grpc.GenericRpcHandler):
    """The services, and everything that they were asked.

    Attributes:
        asked: Method and request, in order.
        things: What there is, by its name.
        policies: Of IAM, by resource.
        refusals: Codes that a method answers with, one after the other, before it answers.
        entries: Of the log.
        build_ends: State that a build and its steps get when it is looked at again.
        job_ends: State that a job gets then.
        slow: Operations are done only when they are asked about again, which clients do after a second.
    """

    asked: list[tuple[str, Any]] = field(default_factory=list)
    things: dict[str, Any] = field(default_factory=dict)
    policies: dict[str, policy_pb2.Policy] = field(default_factory=dict)
    refusals: dict[str, list[grpc.StatusCode]] = field(default_factory=dict)
    entries: list[Any] = field(default_factory=list)
    build_ends: str = "SUCCESS"
    job_ends: str = "JOB_STATE_SUCCEEDED"
    slow: bool = False
    _operations: dict[str, Later] = field(default_factory=dict)

    def requests(self, method: str) -> list[Any]:
        """What a method, such as `Services/UpdateService`, was asked."""
        return [request for name, request in self.asked if name == method]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Bytes come in and go out."""
        package, method = handler_call_details.method.lstrip("/").split("/")
        name = f"{package.rpartition('.')[2]}/{method}"
        return grpc.unary_unary_rpc_method_handler(lambda data, context: self._answer(name, data, context))

    def _answer(self, name: str, data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            if self.refusals.get(name):
                raise RefusedError(self.refusals[name].pop(0), f"{name} is refused")
            kind, function = self._method(name)
            request = _read(kind, data)
            self.asked.append((name, request))
            return _written(self._as_answer(function(request)))
        except RefusedError as refused:
            context.abort(refused.code, str(refused))
            raise

    def _as_answer(self, answer: Any) -> Any:
        if not isinstance(answer, Later):
            return answer
        name = f"operations/{len(self._operations)}"
        self._operations[name] = answer
        metadata = _packed(answer.metadata) if answer.metadata is not None else None
        if self.slow:
            return operations_pb2.Operation(name=name, metadata=metadata)
        return operations_pb2.Operation(name=name, metadata=metadata, done=True, response=_packed(answer.result))

    def _method(self, name: str) -> tuple[Any, Callable[[Any], Any]]:
        if name.endswith("/GetIamPolicy"):
            return iam_policy_pb2.GetIamPolicyRequest, lambda asked: self._policy(asked.resource)
        if name.endswith("/SetIamPolicy"):
            return iam_policy_pb2.SetIamPolicyRequest, self._set_policy
        return self._methods()[name]

    def _methods(self) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
        return {
            "Operations/GetOperation": (operations_pb2.GetOperationRequest, self._operation),
            "ServiceUsage/BatchEnableServices": (usage.BatchEnableServicesRequest, self._enable),
            "ArtifactRegistry/CreateRepository": (registry.CreateRepositoryRequest, self._make_repository),
            "ArtifactRegistry/DeleteRepository": (
                registry.DeleteRepositoryRequest,
                lambda asked: Later(self._remove(asked.name)),
            ),
            "IAM/CreateServiceAccount": (iam.CreateServiceAccountRequest, self._make_account),
            "IAM/DeleteServiceAccount": (iam.DeleteServiceAccountRequest, lambda asked: self._remove(asked.name)),
            "SecretManagerService/CreateSecret": (secrets.CreateSecretRequest, self._make_secret),
            "SecretManagerService/AddSecretVersion": (secrets.AddSecretVersionRequest, self._fill_secret),
            "SecretManagerService/GetSecretVersion": (
                secrets.GetSecretVersionRequest,
                lambda asked: self._find(asked.name),
            ),
            "SecretManagerService/AccessSecretVersion": (secrets.AccessSecretVersionRequest, self._open_secret),
            "SecretManagerService/DeleteSecret": (secrets.DeleteSecretRequest, lambda asked: self._remove(asked.name)),
            "Services/UpdateService": (run.UpdateServiceRequest, self._put_service),
            "Services/ListServices": (run.ListServicesRequest, self._services),
            "Services/DeleteService": (run.DeleteServiceRequest, self._delete_service),
            "Jobs/UpdateJob": (run.UpdateJobRequest, self._put_job),
            "Jobs/GetJob": (run.GetJobRequest, lambda asked: self._find(asked.name)),
            "Jobs/DeleteJob": (run.DeleteJobRequest, lambda asked: Later(self._remove(asked.name, run.Job()))),
            "CloudScheduler/CreateJob": (scheduler.CreateJobRequest, self._make_schedule),
            "CloudScheduler/UpdateJob": (scheduler.UpdateJobRequest, lambda asked: self._put(asked.job)),
            "CloudScheduler/ListJobs": (
                scheduler.ListJobsRequest,
                lambda _: scheduler.ListJobsResponse(jobs=self._all(scheduler.Job)),
            ),
            "CloudScheduler/DeleteJob": (
                scheduler.DeleteJobRequest,
                lambda asked: self._remove(f"schedule:{asked.name}"),
            ),
            "CloudBuild/CreateBuild": (cloudbuild.CreateBuildRequest, self._start_build),
            "CloudBuild/GetBuild": (cloudbuild.GetBuildRequest, self._look_at_build),
            "CloudBuild/ListBuilds": (
                cloudbuild.ListBuildsRequest,
                lambda _: cloudbuild.ListBuildsResponse(builds=self._all(cloudbuild.Build)),
            ),
            "CloudBuild/CreateBuildTrigger": (cloudbuild.CreateBuildTriggerRequest, self._make_trigger),
            "CloudBuild/DeleteBuildTrigger": (
                cloudbuild.DeleteBuildTriggerRequest,
                lambda asked: self._remove(asked.name),
            ),
            "JobService/CreateCustomJob": (vertex.CreateCustomJobRequest, self._start_training),
            "JobService/GetCustomJob": (vertex.GetCustomJobRequest, self._look_at_training),
            "JobService/ListCustomJobs": (
                vertex.ListCustomJobsRequest,
                lambda _: vertex.ListCustomJobsResponse(custom_jobs=self._all(vertex.CustomJob)),
            ),
            "JobService/CreateHyperparameterTuningJob": (
                vertex.CreateHyperparameterTuningJobRequest,
                self._start_search,
            ),
            "JobService/GetHyperparameterTuningJob": (
                vertex.GetHyperparameterTuningJobRequest,
                self._look_at_training,
            ),
            "JobService/ListHyperparameterTuningJobs": (
                vertex.ListHyperparameterTuningJobsRequest,
                lambda _: vertex.ListHyperparameterTuningJobsResponse(
                    hyperparameter_tuning_jobs=self._all(vertex.HyperparameterTuningJob)
                ),
            ),
            "AlertPolicyService/ListAlertPolicies": (monitoring.ListAlertPoliciesRequest, self._alerts),
            "AlertPolicyService/CreateAlertPolicy": (monitoring.CreateAlertPolicyRequest, self._make_alert),
            "AlertPolicyService/UpdateAlertPolicy": (
                monitoring.UpdateAlertPolicyRequest,
                lambda asked: self._put(asked.alert_policy),
            ),
            "AlertPolicyService/DeleteAlertPolicy": (
                monitoring.DeleteAlertPolicyRequest,
                lambda asked: self._remove(asked.name),
            ),
            "DashboardsService/CreateDashboard": (
                boards.CreateDashboardRequest,
                lambda asked: self._make(asked.dashboard.name, asked.dashboard),
            ),
            "DashboardsService/UpdateDashboard": (
                boards.UpdateDashboardRequest,
                lambda asked: self._put(asked.dashboard),
            ),
            "DashboardsService/DeleteDashboard": (
                boards.DeleteDashboardRequest,
                lambda asked: self._remove(asked.name),
            ),
            "LoggingServiceV2/ListLogEntries": (logging.ListLogEntriesRequest, self._log),
        }

    # ------------------------------------------------------------------------------------------ what there is

    def _make(self, name: str, thing: Any) -> Any:
        if name in self.things:
            raise RefusedError(grpc.StatusCode.ALREADY_EXISTS, f"{name} already exists")
        self.things[name] = thing
        return thing

    def _put(self, thing: Any) -> Any:
        self.things[thing.name] = thing
        return thing

    def _find(self, name: str) -> Any:
        if name not in self.things:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, f"{name} not found")
        return self.things[name]

    def _remove(self, name: str, answer: Any = None) -> Any:
        self._find(name)
        del self.things[name]
        return empty_pb2.Empty() if answer is None else answer

    def _all(self, kind: Any) -> list[Any]:
        return [thing for thing in self.things.values() if isinstance(thing, kind)]

    def _operation(self, asked: Any) -> Any:
        later = self._operations[asked.name]
        return operations_pb2.Operation(name=asked.name, done=True, response=_packed(later.result))

    # --------------------------------------------------------------------------------------------- foundations

    def _policy(self, resource: str) -> Any:
        return self.policies.get(resource, policy_pb2.Policy(etag=b"0"))

    def _set_policy(self, asked: Any) -> Any:
        before = self._policy(asked.resource)
        if asked.policy.etag != before.etag:
            raise RefusedError(grpc.StatusCode.ABORTED, "the policy was changed in between")
        policy = policy_pb2.Policy()
        policy.CopyFrom(asked.policy)
        policy.etag = str(int(before.etag) + 1).encode()
        self.policies[asked.resource] = policy
        return policy

    def _enable(self, asked: Any) -> Later:
        _check(len(asked.service_ids) <= 20, "at most 20 services at a time")
        return Later(usage.BatchEnableServicesResponse(), usage.OperationMetadata())

    def _make_repository(self, asked: Any) -> Later:
        _check(re.fullmatch(NAME, asked.repository_id), "the name of a repository")
        name = f"{asked.parent}/repositories/{asked.repository_id}"
        return Later(self._make(name, asked.repository), registry.OperationMetadata())

    def _make_account(self, asked: Any) -> Any:
        _check(re.fullmatch(NAME, asked.account_id) and 6 <= len(asked.account_id) <= 30, "the name of an account")
        project = asked.name.removeprefix("projects/")
        email = f"{asked.account_id}@{project}.iam.gserviceaccount.com"
        name = f"{asked.name}/serviceAccounts/{email}"
        return self._make(name, iam.ServiceAccount(name=name, email=email))

    def _make_secret(self, asked: Any) -> Any:
        _check(re.fullmatch(r"[\w-]{1,255}", asked.secret_id), "the name of a secret")
        _check("automatic" in asked.secret.replication, "the replication of a secret")
        _check_labels(asked.secret.labels)
        return self._make(f"{asked.parent}/secrets/{asked.secret_id}", asked.secret)

    def _fill_secret(self, asked: Any) -> Any:
        self._find(asked.parent)
        version = secrets.SecretVersion(name=f"{asked.parent}/versions/latest")
        self.things[f"value of {asked.parent}"] = asked.payload
        return self._put(version)

    def _open_secret(self, asked: Any) -> Any:
        name = asked.name.rpartition("/versions/")[0]
        return secrets.AccessSecretVersionResponse(name=asked.name, payload=self._find(f"value of {name}"))

    # ------------------------------------------------------------------------------------------------ Cloud Run

    def _put_service(self, asked: Any) -> Later:
        service = run.Service(asked.service)
        _check(
            re.fullmatch(rf"projects/[\w-]+/locations/[\w-]+/services/{NAME}", service.name), "the name of a service"
        )
        _check(asked.allow_missing or service.name in self.things, "a service that is there")
        _check_labels(service.labels)
        _check(sum(bool(one.ports) for one in service.template.containers) == 1, "one container that listens")
        for container in service.template.containers:
            _check_mounts(container, service.template.volumes)
            self._check_secrets(container.env)
            if container.ports and service.template.max_instance_request_concurrency > 1:
                _check(float(container.resources.limits["cpu"]) >= 1, "a whole CPU for more than one request at a time")
        short = service.name.rpartition("/")[2]
        service.uri = f"https://{short}-abc123-ez.a.run.app"
        service.terminal_condition = run.Condition(state=run.Condition.State.CONDITION_SUCCEEDED)
        return Later(self._put(service), service)

    def _services(self, asked: Any) -> Any:
        found = [one for one in self._all(run.Service) if one.name.startswith(f"{asked.parent}/")]
        return run.ListServicesResponse(services=found)

    def _delete_service(self, asked: Any) -> Later:
        return Later(self._remove(asked.name, run.Service()), run.Service())

    def _put_job(self, asked: Any) -> Later:
        [container] = asked.job.template.template.containers
        _check_mounts(container, asked.job.template.template.volumes)
        self._check_secrets(container.env)
        return Later(self._put(asked.job), asked.job)

    def _check_secrets(self, variables: Any) -> None:
        _check(len({one.name for one in variables}) == len(variables), "each variable once")
        for one in variables:
            if one.value_source.secret_key_ref.secret:
                self._find(f"projects/our-films/secrets/{one.value_source.secret_key_ref.secret}/versions/latest")

    def _make_schedule(self, asked: Any) -> Any:
        _check(len(asked.job.schedule.split()) == 5, "a schedule")
        _check(asked.job.http_target.uri.startswith("https://"), "an address to call")
        return self._make(f"schedule:{asked.job.name}", asked.job)

    # ---------------------------------------------------------------------------------- Cloud Build, Vertex AI

    def _start_build(self, asked: Any) -> Later:
        _check(asked.parent and asked.project_id, "a project")
        ids = [step.id for step in asked.build.steps]
        for step in asked.build.steps:
            _check(set(step.wait_for) <= set(ids), "steps that are there")
            used = {name for text in step.args for name in re.findall(r"\$\{(_\w+)\}", text)}
            _check(used <= set(asked.build.substitutions), "substitutions for all that is used")
        build = cloudbuild.Build(asked.build)
        build.id, build.status = f"build-{len(self.things)}", cloudbuild.Build.Status.WORKING
        self.things[build.id] = build
        return Later(build, cloudbuild.BuildOperationMetadata(build=build))

    def _look_at_build(self, asked: Any) -> Any:
        found = cloudbuild.Build(self._find(asked.id))
        build = self.things[asked.id]
        build.status = cloudbuild.Build.Status[self.build_ends]
        for step in build.steps:
            step.status = build.status
        return found

    def _make_trigger(self, asked: Any) -> Any:
        name = f"{asked.parent}/triggers/{asked.trigger.name}"
        return self._make(name, asked.trigger)

    def _start_training(self, asked: Any) -> Any:
        job = vertex.CustomJob(asked.custom_job)
        _check_job(job.job_spec)
        _check_labels(job.labels)
        job.name = f"{asked.parent}/customJobs/{1000 + len(self.things)}"
        job.state = vertex.JobState.JOB_STATE_PENDING
        return self._put(job)

    def _start_search(self, asked: Any) -> Any:
        job = vertex.HyperparameterTuningJob(asked.hyperparameter_tuning_job)
        _check_job(job.trial_job_spec)
        _check(1 <= job.parallel_trial_count <= job.max_trial_count, "how many trials")
        for parameter in job.study_spec.parameters:
            _check(parameter.parameter_id and " " not in parameter.parameter_id, "a parameter's name")
        job.name = f"{asked.parent}/hyperparameterTuningJobs/{1000 + len(self.things)}"
        job.state = vertex.JobState.JOB_STATE_PENDING
        return self._put(job)

    def _look_at_training(self, asked: Any) -> Any:
        found = type(self._find(asked.name))(self._find(asked.name))
        self.things[asked.name].state = vertex.JobState[self.job_ends]
        return found

    # ------------------------------------------------------------------------------- Monitoring and Logging

    def _alerts(self, asked: Any) -> Any:
        wanted = re.fullmatch(r'display_name="(.*)"', asked.filter)
        found = [
            one for one in self._all(monitoring.AlertPolicy) if wanted is None or one.display_name == wanted.group(1)
        ]
        return monitoring.ListAlertPoliciesResponse(alert_policies=found)

    def _make_alert(self, asked: Any) -> Any:
        policy = monitoring.AlertPolicy(asked.alert_policy)
        policy.name = f"{asked.name}/alertPolicies/{len(self.things)}"
        return self._put(policy)

    def _log(self, asked: Any) -> Any:
        newest_first = sorted(self.entries, key=lambda entry: entry.timestamp, reverse=True)
        return logging.ListLogEntriesResponse(entries=newest_first[: asked.page_size])


def serve(stand_in: StandIn) -> tuple[grpc.Server, str]:
    """A server with it, and its address."""
    server = grpc.server(ThreadPoolExecutor(4), handlers=[stand_in])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


def _check(condition: object, wanted: str) -> None:
    if not condition:
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f"wanted: {wanted}")


def _check_labels(labels: Any) -> None:
    _check(all(re.fullmatch(LABEL, part) for one in labels.items() for part in one), "labels")


def _check_mounts(container: Any, volumes: Any) -> None:
    _check({one.name for one in container.volume_mounts} <= {one.name for one in volumes}, "volumes that are there")


def _check_job(spec: Any) -> None:
    first, *others = spec.worker_pool_specs
    _check(first.replica_count == 1, "one chief")
    _check(len(others) <= 3, "at most four pools")
    for pool in spec.worker_pool_specs:
        _check(pool.container_spec.image_uri and pool.machine_spec.machine_type, "an image on a machine")
        _check(bool(pool.machine_spec.accelerator_type) == bool(pool.machine_spec.accelerator_count), "accelerators")
    _check(spec.service_account, "an account")


def _read(kind: Any, data: bytes) -> Any:
    if hasattr(kind, "deserialize"):
        request = kind.deserialize(data)
        raw = kind.pb(request)
    else:
        raw = request = kind.FromString(data)
    _check(len(UnknownFieldSet(raw)) == 0, "only fields that the type knows")
    return request


def _written(message: Any) -> bytes:
    kind = type(message)
    return bytes(kind.serialize(message)) if hasattr(kind, "serialize") else bytes(message.SerializeToString())


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(type(message).pb(message) if hasattr(type(message), "pb") else message)
    return packed
