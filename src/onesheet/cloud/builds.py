"""The images of `deploy/docker/Dockerfile`, built by Cloud Build or here, and pushed to the project's repository."""

from __future__ import annotations

import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from google.cloud.devtools import cloudbuild_v1 as cloudbuild

from onesheet.cloud.bootstrap import SOURCE
from onesheet.cloud.config import Place
from onesheet.cloud.google import Google
from onesheet.cloud.steps import Call, Upload, as_json
from onesheet.errors import CloudError, ConfigError

DOCKERFILE: Final = "deploy/docker/Dockerfile"
# What each image has in the cloud beside what it has everywhere: bundles in the bucket, the registry, similar posters.
EXTRAS: Final = {
    "api": "--extra registry --extra similar --extra gcs",
    "bento": "--extra registry --extra similar --extra gcs",
    "frontend": "--extra cloudrun",
    "drift": "--extra gcs",
    "evaluate": "",
    "train": "--extra vertex",
}
MACHINE: Final = "e2-highcpu-8"
MAX_MINUTES: Final = 90
_DOCKER: Final = "gcr.io/cloud-builders/docker"
_BUILDER: Final = "builder"
_POLL_SECONDS: Final = 10.0
_WORKING: Final = {
    cloudbuild.Build.Status.STATUS_UNKNOWN,
    cloudbuild.Build.Status.PENDING,
    cloudbuild.Build.Status.QUEUED,
    cloudbuild.Build.Status.WORKING,
}


def build(images: Sequence[str] = tuple(EXTRAS)) -> cloudbuild.Build:
    """The steps of a build, for any project; all that differs are substitutions.

    Args:
        images: Targets of the Dockerfile.

    Raises:
        ConfigError: There is no such image.
    """
    for image in images:
        if image not in EXTRAS:
            raise ConfigError(f"{image} is no image; there are {', '.join(EXTRAS)}")
    # Its caches can keep the stages in between, which those of Docker's own builder cannot.
    create = ["buildx", "create", "--name=onesheet", "--driver=docker-container", "--use", "--bootstrap"]
    steps = [cloudbuild.BuildStep(id=_BUILDER, name=_DOCKER, args=create)]
    steps += [
        cloudbuild.BuildStep(id=image, name=_DOCKER, wait_for=[_BUILDER], args=_arguments(image)) for image in images
    ]
    options = cloudbuild.BuildOptions
    return cloudbuild.Build(
        steps=steps,
        timeout=timedelta(minutes=MAX_MINUTES),
        substitutions={"_IMAGES": "REGION-docker.pkg.dev/PROJECT/onesheet", "_NAME": "onesheet", "_TAG": "latest"},
        options=options(
            machine_type=options.MachineType.E2_HIGHCPU_8,
            disk_size_gb=200,
            # A build under an account of its own has no other place.
            logging=options.LoggingMode.CLOUD_LOGGING_ONLY,
            dynamic_substitutions=True,
        ),
        tags=["onesheet"],
    )


def _arguments(image: str) -> list[str]:
    cache = f"type=registry,ref=${{_IMAGES}}/cache:{image}"
    return [
        "buildx",
        "build",
        f"--file={DOCKERFILE}",
        f"--target={image}",
        *([f"--build-arg=EXTRAS={EXTRAS[image]}"] if EXTRAS[image] else []),
        f"--tag=${{_IMAGES}}/${{_NAME}}-{image}:${{_TAG}}",
        f"--cache-from={cache}",
        f"--cache-to={cache},mode=max",
        "--push",
        ".",
    ]


def submit(place: Place, source: str, tag: str, images: Sequence[str]) -> Call:
    """The build of a source in the bucket.

    Args:
        place: Where.
        source: Address of the archive.
        tag: That the images get.
        images: Targets of the Dockerfile.

    Raises:
        ConfigError: There is no such image.
    """
    bucket, _, name = source.removeprefix("gs://").partition("/")
    wanted = build(images)
    wanted.source = cloudbuild.Source(storage_source=cloudbuild.StorageSource(bucket=bucket, object_=name))
    wanted.substitutions = _substitutions(place, tag)
    wanted.service_account = _account(place)
    request = cloudbuild.CreateBuildRequest(parent=place.location, project_id=place.project, build=wanted)
    return Call(f"build of {', '.join(images)}", "cloudbuild", "create_build", request, wait=False)


def trigger(place: Place, repository: str) -> Call:
    """A build of every push to `main` of a repository of GitHub that is connected to the project.

    Args:
        place: Where.
        repository: `OWNER/NAME`.

    Raises:
        ConfigError: It is not of this form.
    """
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name:
        raise ConfigError(f"{repository}: say OWNER/NAME, as on GitHub")
    wanted = cloudbuild.BuildTrigger(
        name=f"{place.config.name}-main",
        description="All images, for every push to main",
        github=cloudbuild.GitHubEventsConfig(owner=owner, name=name, push=cloudbuild.PushFilter(branch="^main$")),
        filename="deploy/gcp/cloudbuild.yaml",
        included_files=["src/**", "configs/**", "deploy/docker/**", "pyproject.toml", "uv.lock"],
        substitutions=_substitutions(place, "$SHORT_SHA"),
        service_account=_account(place),
    )
    request = cloudbuild.CreateBuildTriggerRequest(parent=place.location, project_id=place.project, trigger=wanted)
    return Call(f"trigger for {repository}", "cloudbuild", "create_build_trigger", request)


def document() -> str:
    """`deploy/gcp/cloudbuild.yaml`, which triggers read."""
    import yaml

    found = as_json(build())
    found["substitutions"] = dict(sorted(found["substitutions"].items()))
    head = "# All images on Cloud Build, for its triggers; written by `inv cloudbuild` from onesheet.cloud.builds.\n"
    return head + str(yaml.safe_dump(found, sort_keys=False, width=1000))


@contextmanager
def packed(checkout: Path, place: Place, tag: str) -> Iterator[Upload]:
    """The sources of a checkout as one archive, ready to go into the bucket.

    Raises:
        ConfigError: The folder is no checkout of onesheet.
    """
    if not (checkout / DOCKERFILE).is_file():
        raise ConfigError(f"images are built from a checkout of onesheet; there is no {DOCKERFILE} here")
    with TemporaryDirectory() as folder:
        archive = Path(folder) / f"{tag}.tgz"
        with tarfile.open(archive, "w:gz") as packing:
            for name in _tracked(checkout):
                packing.add(checkout / name, arcname=name, recursive=False)
        yield Upload("source", archive, place.address(SOURCE, archive.name))


def commit(checkout: Path) -> str:
    """What images of this commit are tagged with.

    Raises:
        ConfigError: This is no checkout.
    """
    return _git(checkout, "rev-parse", "--short=12", "HEAD").strip()


def new_tag(checkout: Path) -> str:
    """The commit; what is not committed is told apart by the time.

    Raises:
        ConfigError: This is no checkout.
    """
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no").strip()
    return f"{commit(checkout)}-{int(time.time())}" if changed else commit(checkout)


def build_here(
    place: Place, checkout: Path, tag: str, images: Sequence[str], tool: str, base: str | None = None
) -> Iterator[list[str]]:
    """The commands that build and push with Docker or Podman, as Cloud Build would.

    Args:
        place: Where they are pushed to.
        checkout: Of onesheet.
        tag: That the images get.
        images: Targets of the Dockerfile.
        tool: `docker` or `podman`.
        base: Image to build on, instead of the Dockerfile's.

    Raises:
        ConfigError: There is no such image.
    """
    build(images)
    for image in images:
        address = place.image(image, tag)
        options = [f"--build-arg=EXTRAS={EXTRAS[image]}"] if EXTRAS[image] else []
        options += [f"--build-arg=BASE={base}"] if base else []
        # The format of others has no health checks.
        options += ["--format=docker", "--layers"] if tool == "podman" else []
        file = str(checkout / DOCKERFILE)
        yield [tool, "build", f"--file={file}", f"--target={image}", *options, f"--tag={address}", str(checkout)]
        yield [tool, "push", address]


def wait(google: Google, place: Place, number: str, on_state: Callable[[str], None]) -> None:
    """Follow a build to its end.

    Args:
        google: The project.
        place: Where it runs.
        number: Its id.
        on_state: Called with the states of its steps as they change.

    Raises:
        CloudError: It failed, or cannot be asked about.
    """
    request = cloudbuild.GetBuildRequest(name=f"{place.location}/builds/{number}", project_id=place.project, id=number)
    told: dict[str, Any] = {}
    while True:
        found = google.call("cloudbuild", "get_build", request)
        for step in found.steps:
            if step.id != _BUILDER and told.get(step.id) != step.status:
                told[step.id] = step.status
                on_state(f"{step.id}: {_status(step.status)}")
        if found.status not in _WORKING:
            break
        time.sleep(_POLL_SECONDS)
    if found.status != cloudbuild.Build.Status.SUCCESS:
        said = found.failure_info.detail or found.status_detail or "see its log"
        raise CloudError(
            f"the build {_status(found.status)}: {said}; onesheet cloud logs {number}, "
            "or build here: onesheet cloud build --local"
        )


def _status(status: Any) -> str:
    return str(cloudbuild.Build.Status(status).name).lower()


def _substitutions(place: Place, tag: str) -> dict[str, str]:
    return {"_IMAGES": place.images, "_NAME": place.config.name, "_TAG": tag}


def _account(place: Place) -> str:
    return f"projects/{place.project}/serviceAccounts/{place.account('build')}"


def _tracked(checkout: Path) -> list[str]:
    """Files of the checkout as they lie there, without those that git ignores."""
    found = _git(checkout, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return sorted(name for name in found.split("\0") if name and (checkout / name).is_file())


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"no commit of onesheet here ({done.stderr.strip().splitlines()[-1]}); say --tag TAG")
    return done.stdout
