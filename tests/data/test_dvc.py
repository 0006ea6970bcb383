"""`onesheet data push` and `pull`: real git, DVC and gcsfs, with a folder or an emulated bucket that fails at times."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from onesheet.cli import main
from onesheet.data import dvc
from tests.processes import MAX_WAIT, eventually, run_command, started_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run = Callable[..., tuple[int, str, str]]

OBJECTS = 42  # 40 posters, their labels, and the list of the folder's files
BUCKET = "versions"
PATIENCE = ("--timeout", "12")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """DVC and gcsfs that know nothing of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        patch.setenv("DVC_NO_ANALYTICS", "1")
        patch.setenv("NO_GCE_CHECK", "true")  # nor look for a metadata server in the network
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        yield


@pytest.fixture(scope="module")
def template(environment: None, made_up_posters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with 40 films that DVC tracks as `raw`."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "raw/Images").mkdir(parents=True)
    shutil.copy(made_up_posters / "train.csv", folder / "raw")
    for poster in sorted((made_up_posters / "Images").iterdir())[:40]:
        shutil.copy(poster, folder / "raw/Images")
    dvc = (sys.executable, "-m", "dvc")
    for command in (("git", "init", "-q"), (*dvc, "init", "-q"), (*dvc, "add", "-q", "raw")):
        run_command(command, cwd=folder, check=True)
    return folder


@pytest.fixture
def repository(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with a folder as the remote, and we are there."""
    folder = tmp_path / "repository"
    shutil.copytree(template, folder, symlinks=True)
    use_remote(folder, str(tmp_path / "remote"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def bucket(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Cloud Storage as the remote; `bucket.fault` decides what goes wrong."""
    path = Path(__file__).parents[2] / "benchmarks/faulty_bucket.py"
    specification = importlib.util.spec_from_file_location("faulty_bucket", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    with module.FaultyBucket(BUCKET) as bucket:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.address)
        use_remote(repository, f"gs://{BUCKET}/dvc")
        yield bucket


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("push", …)`: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["onesheet", "data", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return exit_.value.code or 0, said.out, said.err

    return call


def use_remote(repository: Path, address: str) -> None:
    (repository / ".dvc/config").write_text(
        f"[core]\n    analytics = false\n    remote = storage\n['remote \"storage\"']\n    url = {address}\n"
    )


def forget(repository: Path) -> None:
    """As in a new clone."""
    shutil.rmtree(repository / "raw")
    shutil.rmtree(repository / ".dvc/cache")


def same_posters(repository: Path, template: Path) -> bool:
    names = [path.relative_to(template) for path in (template / "raw").rglob("*") if path.is_file()]
    return len(names) == 41 and all(
        (repository / name).read_bytes() == (template / name).read_bytes() for name in names
    )


@contextmanager
def transferring(direction: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`onesheet data push|pull` in a process of its own, that Ctrl-C reaches whoever started the tests."""
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from onesheet.cli import main
main()
"""
    command = [sys.executable, "-c", code, "data", direction, *options]
    with started_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        yield process


def signal_in_the_middle(bucket: Any, process: subprocess.Popen[str], number: signal.Signals, method: str) -> None:
    """Send a signal when 15 objects are through; none of what the process started outlives it."""
    moved = bucket.uploaded if method == "POST" else bucket.downloaded
    eventually(lambda: moved.total() >= 15)
    workers = psutil.Process(process.pid).children()
    assert workers
    process.send_signal(number)
    process.wait(MAX_WAIT)
    assert psutil.wait_procs(workers, timeout=MAX_WAIT)[1] == []


def slowly(method: str, name: str) -> None:
    """No fault, but time to do something in the middle."""
    time.sleep(0.05)


# ------------------------------------------------------------------------------------------------ all goes well


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_where_nothing_is_tracked_nothing_is_up_to_date(direction: str, run: Run, repository: Path) -> None:
    (repository / "raw.dvc").unlink()
    code, out, err = run(direction)
    assert (code, out) == (1, "")
    assert "DVC tracks nothing here" in err


def test_there_and_back_by_a_folder(run: Run, repository: Path, template: Path) -> None:
    assert run("push") == (0, f"pushed {OBJECTS} objects\n", "")
    assert run("push", "raw") == (0, "everything is up to date\n", "")
    forget(repository)
    assert run("pull", "raw") == (0, f"pulled {OBJECTS} objects\n", "")
    assert same_posters(repository, template)


def test_what_was_changed_here_is_overwritten_only_by_force(run: Run, repository: Path, template: Path) -> None:
    run("push")
    (repository / "raw/train.csv").unlink()
    (repository / "raw/train.csv").write_text("mine")
    code, _, err = run("pull")
    assert (code, err.count("\n")) == (1, 1)
    assert "--force" in err
    assert run("pull", "--force") == (0, "everything is up to date\n", "")
    assert same_posters(repository, template)


# ------------------------------------------------------------------------------------------ networks and servers


def test_there_and_back_by_a_bucket_that_fails(run: Run, bucket: Any, repository: Path, template: Path) -> None:
    """Each sixth object fails at first, in four ways; nothing is uploaded twice."""
    kinds, tried = ("503", "hang up", "half", "silence"), dict[tuple[str, str], int]()

    def fault(method: str, name: str) -> str | None:
        if method != "POST" and "alt=media" not in name:
            return None
        first = (method, name) not in tried
        number = tried.setdefault((method, name), len(tried))
        return kinds[number // 6 % 4] if first and number % 6 == 0 else None

    bucket.fault = fault
    assert run("push", "--jobs", "4", *PATIENCE) == (0, f"pushed {OBJECTS} objects\n", "")
    # The answer to an object that is cut off in the middle comes after its arrival: the client cannot know.
    assert bucket.faults["half"] <= 2
    assert sum(count - 1 for count in bucket.uploaded.values()) <= bucket.faults["half"]
    assert len(bucket.uploaded) == OBJECTS
    assert set(bucket.faults) == set(kinds)

    bucket.faults.clear()
    forget(repository)
    assert run("pull", "--jobs", "4", *PATIENCE)[0] == 0
    assert same_posters(repository, template)
    assert set(bucket.faults) == set(kinds)


def test_a_stall_that_no_time_out_reaches(run: Run, bucket: Any) -> None:
    """The process is stopped: it is ended, and another goes on."""
    stopped: list[int] = []

    def stop_once(method: str, name: str) -> None:
        if method == "POST" and len(bucket.uploaded) >= 10 and not stopped:
            children = psutil.Process().children()
            (worker,) = (child for child in children if "onesheet.data.dvc_worker" in child.cmdline())
            stopped.append(worker.pid)
            os.kill(worker.pid, signal.SIGSTOP)

    bucket.fault = stop_once
    assert run("push", "--jobs", "4", *PATIENCE) == (0, f"pushed {OBJECTS} objects\n", "")
    assert stopped
    assert set(bucket.uploaded.values()) == {1}


def test_killed_in_the_middle_of_a_push(run: Run, bucket: Any) -> None:
    bucket.fault = slowly
    with transferring("push", "--jobs", "4") as process:
        signal_in_the_middle(bucket, process, signal.SIGKILL, "POST")
    before = len(bucket.uploaded)
    assert 15 <= before < OBJECTS
    code, out, _ = run("push")
    assert (code, out) == (0, f"pushed {OBJECTS - before} objects\n")
    assert set(bucket.uploaded.values()) == {1}, "nothing is uploaded twice"


def test_killed_in_the_middle_of_a_pull(run: Run, bucket: Any, repository: Path, template: Path) -> None:
    run("push")
    forget(repository)
    bucket.fault = slowly
    with transferring("pull", "--jobs", "4") as process:
        signal_in_the_middle(bucket, process, signal.SIGKILL, "GET")
    assert run("pull")[0] == 0
    assert same_posters(repository, template)
    # Of four jobs, each may have had one object on its way and another that had just arrived.
    assert bucket.downloaded.total() <= OBJECTS + 8, "only what was on its way comes again"


def test_ctrl_c_ends_it_without_a_traceback(bucket: Any) -> None:
    bucket.fault = slowly
    with transferring("push", "--jobs", "4") as process:
        signal_in_the_middle(bucket, process, signal.SIGINT, "POST")
        assert process.stderr is not None
        assert process.returncode == 130
        assert "Traceback" not in process.stderr.read()


# ------------------------------------------------------------------------------------------------ one-line errors


def test_who_may_not_is_told_at_once(run: Run, bucket: Any) -> None:
    bucket.fault = lambda method, name: "403" if method == "POST" else None
    code, out, err = run("push")
    assert (code, out) == (1, "")
    assert err.startswith("onesheet: cannot push: Forbidden: ")
    assert err.count("\n") == 1
    bucket.fault = lambda method, name: "401" if method == "POST" else None
    assert "log in with `gcloud auth application-default login`" in run("push")[2]


def test_a_bucket_that_is_not_there(run: Run, bucket: Any, repository: Path) -> None:
    use_remote(repository, "gs://nowhere/dvc")
    code, _, err = run("push")
    assert (code, err.count("\n")) == (1, 1)
    assert "nowhere" in err


def test_outside_of_a_repository(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("pull")[2].startswith("onesheet: cannot pull: you are not inside of a DVC repository")


def test_without_a_remote(run: Run, repository: Path) -> None:
    assert "remote 'other' doesn't exist" in run("push", "--remote", "other")[2]
    (repository / ".dvc/config").write_text("")
    assert "dvc remote add -d" in run("push")[2]


def test_what_nobody_has_pushed_cannot_be_pulled(run: Run, repository: Path) -> None:
    forget(repository)
    code, _, err = run("pull")
    assert (code, err.count("\n")) == (1, 1)
    assert "raw: not all of it is here or in the remote" in err


def test_a_push_of_what_is_not_here_is_no_success(run: Run, repository: Path) -> None:
    cached = next(path for path in (repository / ".dvc/cache").rglob("*") if path.is_file() and path.suffix != ".dir")
    cached.unlink()
    code, _, err = run("push")
    assert (code, err.count("\n")) == (1, 1)
    assert "some objects are neither here nor in the remote" in err


def test_what_does_not_help_is_given_up(run: Run, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc, "PAUSES_S", ())
    (repository / ".dvc/tmp").mkdir(exist_ok=True)
    with (repository / ".dvc/tmp/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = run("push")
    assert code == 1
    assert err == (
        "onesheet: cannot push: another DVC is at work in this repository; "
        "what got through stays: run it again to go on\n"
    )


def test_without_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dvc", None)
    code, _, err = run("push")
    assert code == 1
    assert "this command needs the extra `dvc`" in err
