"""Short commands for people and CI alike: `uv run --all-extras --group dev inv --list`."""

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

from invoke import Context, Exit, call, task

# The targets of deploy/docker/Dockerfile.
IMAGES = ("api", "bento", "frontend", "drift", "evaluate", "train")


@task
def lint(c: Context) -> None:
    """Check style and formatting."""
    c.run("ruff check .")
    c.run("ruff format --check .")


@task
def types(c: Context) -> None:
    """Check types, strictly."""
    c.run("mypy")


@task(name="test", help={"coverage": "Measure it; it has a lower limit, and costs a third more time."})
def run_tests(c: Context, coverage: bool = False) -> None:
    """Run all tests in parallel."""
    measured = " --cov --cov-report term" if coverage else ""
    c.run(f"pytest -n auto --dist worksteal --durations 25{measured}", pty=False)


# Families of tests that say what onesheet does on a system, and not what this repository holds.
PORTABLE = "tests/unit tests/data tests/load/test_tune.py tests/api/test_openapi.py tests/api/test_predict.py"


@task
def portable(c: Context) -> None:
    """Run the tests that are to hold on macOS and Windows as well, and a service as an installed onesheet has it."""
    c.run(f"pytest -n auto --dist worksteal --durations 25 {PORTABLE}", pty=False)
    c.run("python tests/smoke_install.py")


@task
def audit(c: Context) -> None:
    """Look up known vulnerabilities of everything that the lock file names."""
    Path("dist").mkdir(exist_ok=True)
    c.run("uv export --frozen --quiet --all-extras --no-emit-project --no-hashes --output-file dist/audited.txt")
    found = c.run(
        "pip-audit --requirement dist/audited.txt --no-deps --disable-pip --progress-spinner off --format json",
        hide="out",
        warn=True,
    )
    packages = json.loads(found.stdout)["dependencies"]
    vulnerable = [package for package in packages if package.get("vulns")]
    unknown = sum("skip_reason" in package for package in packages)
    print(f"{len(packages)} packages: {len(vulnerable)} with known vulnerabilities, {unknown} not looked up")
    for package in vulnerable:
        print(package["name"], package["version"], *(problem["id"] for problem in package["vulns"]))
    if vulnerable:
        raise Exit(code=1)


@task
def settings(_: Context) -> None:
    """Write docs/settings.md from the settings themselves."""
    Path("docs/settings.md").write_text(settings_page(), encoding="utf-8")


def settings_page() -> str:
    """Every setting with its default and its meaning; a test keeps the page so."""
    from onesheet.settings import Settings

    rows = [
        f"| `ONESHEET_{name.upper()}` | {'' if field.default in (None, '') else f'`{field.default}`'} "
        f"| {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    head = """# Settings

From the environment, or a `.env` file in the working folder; a command's own options win. An empty value counts as not
set. A wrong value stops only the commands that use it; see [what is checked at the
start](serving.md#what-is-checked-at-the-start). This page is written by `inv settings`.

| variable | default | |
|---|---|---|
"""
    return head + "\n".join(rows) + "\n"


@task
def monitoring(_: Context) -> None:
    """Write deploy/gcp/monitoring/ from the rules of Prometheus and the dashboard of Grafana."""
    from onesheet.cloud.monitoring import documents

    folder = Path("deploy/gcp/monitoring")
    for old in folder.glob("**/*.json"):
        old.unlink()
    (folder / "policies").mkdir(parents=True, exist_ok=True)
    made = documents(Path("deploy/prometheus/rules/onesheet.yml"), Path("deploy/grafana/dashboards/onesheet.json"))
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")


@task
def cloudbuild(_: Context) -> None:
    """Write deploy/gcp/cloudbuild.yaml, which the triggers of Cloud Build read."""
    from onesheet.cloud.builds import document

    Path("deploy/gcp/cloudbuild.yaml").write_text(document(), encoding="utf-8")


@task
def bento(c: Context) -> None:
    """Build a bento: `bentoml serve onesheet:latest`, or `bentoml containerize onesheet:latest`, then runs it."""
    c.run("uv build --wheel --out-dir dist")
    c.run(
        "uv export --frozen --quiet --no-default-groups --no-emit-project --no-hashes "
        "--extra bento --extra postgres --extra tracing --output-file dist/bento-requirements.txt"
    )
    c.run("bentoml build deploy/bento")


@task(
    iterable=["only"],
    help={
        "only": "This image; may be repeated.",
        "base": "A Debian 12 to build on.",
        "tag": "Of the images.",
        "cache": "GitHub's cache, in a workflow: `read`, or `write` as well.",
        "push": "Where they go instead of staying here, with provenance and SBOM, such as ghcr.io/OWNER.",
    },
)
def images(c: Context, only: list[str], base: str = "", tag: str = "latest", cache: str = "", push: str = "") -> None:
    """Build the images of deploy/docker/Dockerfile with Docker, Podman or Buildah, whichever is there."""
    tool = _container_tool(c, "docker", "podman", "buildah")
    if (cache or push) and tool != "docker":
        raise Exit("GitHub's cache, provenance and SBOM are for Docker's BuildKit")
    revision = c.run("git rev-parse HEAD", hide=True, warn=True).stdout.strip()
    options = [
        "--file deploy/docker/Dockerfile",
        f"--label org.opencontainers.image.version={version('onesheet')}",
        f"--label org.opencontainers.image.revision={revision}",
        # The format of others has no health checks, and steps that are kept are what makes the next build quick.
        *([] if tool == "docker" else ["--format docker", "--layers"]),
        *([f"--build-arg BASE={base}"] if base else []),
    ]
    # `docker build` would ignore the builder that has the cache.
    build = f"{tool} buildx build" if cache or push else f"{tool} build"
    where = "--push --provenance mode=max --sbom true" if push else "--load" if cache else ""
    for image in only or IMAGES:
        name = f"{push}/onesheet-{image}" if push else f"onesheet-{image}"
        # The final layers alone: GitHub keeps ten gigabytes for all that a repository caches.
        kept = f"type=gha,scope={name.rpartition('/')[2]}"
        cached = [f"--cache-from {kept}"] if cache else []
        cached += [f"--cache-to {kept},ignore-error=true"] if cache == "write" else []
        c.run(" ".join([build, *options, *cached, where, f"--target {image}", f"--tag {name}:{tag}", "."]))


@task(iterable=["only"], help={"only": "This image; may be repeated.", "tag": "Of the images."})
def smoke(c: Context, only: list[str], tag: str = "latest") -> None:
    """Run the images as a careful operator would: each does its work, and a table has their sizes."""
    c.run(f"python tests/smoke_images.py --tool {_container_tool(c, 'docker', 'podman')} --tag {tag} {' '.join(only)}")


def _container_tool(c: Context, *tools: str) -> str:
    """The first that works: a client of Docker may be there without its daemon."""
    for tool in tools:
        if c.run(f"{tool} info", hide=True, warn=True).ok:
            return tool
    raise Exit(f"none of these works here: {', '.join(tools)}")


@task
def screenshots(c: Context) -> None:
    """Take the pictures of docs/ anew: the tests of the web page do, in a real browser."""
    tests = "tests/e2e/test_page.py tests/e2e/test_month.py"
    c.run(f"pytest -n 0 -q {tests}", env={"ONESHEET_SCREENSHOTS": str(Path("docs/images").absolute())})


# Pictures of docs/images that reports/README.md shows as well; docs/report.md says what makes them.
REPORT_FIGURES = (
    "month-alert.jpg",
    "page-monitoring.jpg",
    "page-posters.jpg",
    "sweep_history.png",
    "sweep_importance.png",
)


@task
def report(c: Context) -> None:
    """Make the figures of reports/README.md anew, and check it."""
    for name in REPORT_FIGURES:
        Path("reports/figures", name).write_bytes(Path("docs/images", name).read_bytes())
    c.run("python reports/overview.py")
    c.run("onesheet report check")


@task
def docs(c: Context) -> None:
    """Write docs/reference/ from the code, and build the site in dist/site; a link that leads nowhere is an error."""
    c.run("python docs/generate.py")
    # docs/delivery.md says what the theme would.
    c.run("mkdocs build --strict --quiet", env={"NO_MKDOCS_2_WARNING": "1"})


@task(name="release-notes", help={"tag": "Of the release, such as v0.2.0."})
def release_notes(_: Context, tag: str) -> None:
    """Print what CHANGELOG.md says of a release; fail where tag, version and changelog do not agree."""
    number = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if tag != f"v{number}":
        raise Exit(f"the tag is {tag}, but the version in pyproject.toml {number}")
    print(changes(Path("CHANGELOG.md").read_text(encoding="utf-8"), number))


def changes(changelog: str, number: str) -> str:
    """The section of a version.

    Raises:
        Exit: There is none, or it says nothing.
    """
    heading = rf"^## \[?{re.escape(number)}\]?(?: [-–] \d{{4}}-\d{{2}}-\d{{2}})?$"
    found = re.search(rf"{heading}\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise Exit(f"CHANGELOG.md says nothing of {number}")
    return found[1].strip()


@task(lint, types)
def quick(c: Context) -> None:
    """Run what says most in least time: style, types and the tests of single parts."""
    c.run("pytest -n auto --dist worksteal tests/unit", pty=False)


@task(lint, types, call(run_tests, coverage=True))
def check(c: Context) -> None:
    """Run everything that CI runs: style, types, and all tests with coverage."""


@task
def fix(c: Context) -> None:
    """Repair style and formatting."""
    c.run("ruff check --fix .")
    c.run("ruff format .")
