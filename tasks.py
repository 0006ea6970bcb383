"""Short commands for people and CI alike: `uv run --all-extras --group dev inv --list`."""

from invoke import Context, task


@task
def lint(c: Context) -> None:
    """Check style and formatting."""
    c.run("ruff check .")
    c.run("ruff format --check .")


@task
def types(c: Context) -> None:
    """Check types, strictly."""
    c.run("mypy")


@task
def test(c: Context) -> None:
    """Run all tests in parallel, with coverage."""
    c.run("pytest -n auto --dist worksteal --cov --cov-report term --durations 25", pty=False)


@task
def bento(c: Context) -> None:
    """Build a bento: `bentoml serve onesheet:latest`, or `bentoml containerize onesheet:latest`, then runs it."""
    c.run("uv build --wheel --out-dir dist")
    c.run(
        "uv export --frozen --quiet --no-emit-project --no-hashes --extra bento --extra postgres --extra tracing "
        "--output-file dist/bento-requirements.txt"
    )
    c.run("bentoml build deploy/bento")


@task(lint, types, test)
def check(c: Context) -> None:
    """Run everything that CI runs."""


@task
def fix(c: Context) -> None:
    """Repair style and formatting."""
    c.run("ruff check --fix .")
    c.run("ruff format .")
