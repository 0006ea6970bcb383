"""What may import what, and what an import may do: the walls of the house."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import onesheet
from tests.processes import run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(onesheet.__file__).parent

# These run in production, where the others are not installed.
LIGHT = ("image", "bundle", "predictor", "serving", "predictionlog", "monitoring.metrics", "settings", "log", "errors")
HEAVY = ("onesheet.data", "onesheet.training", "onesheet.evaluation", "onesheet.export")
HEAVY_PACKAGES = ("torch", "torchvision", "lightning", "timm", "sklearn", "pyarrow", "pandas", "onnx", "matplotlib")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}
LIGHT_MODULES = [
    name
    for name in MODULES
    if any(f"{name}.".startswith(f"onesheet.{light}.") for light in LIGHT)
    and ".migrations." not in name  # Alembic runs
]
# Used where it is installed; without it, one route of the API says so and the others answer.
OPTIONAL = {
    name: {"pyarrow", "pyarrow.parquet"} for name in ("onesheet.acceptance", "onesheet.similar", "onesheet.parquet")
}
# BentoML itself brings fsspec, and its service reads the settings when it is imported.
BENTOML_MODULES = ("onesheet.serving.bento", "onesheet.serving.bento_app")


def imports_of(node: ast.AST, package: str) -> Iterator[str]:
    """Every module that is imported anywhere, also inside a function, but not for type checkers alone."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            base = importlib.util.resolve_name("." * level + (module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in names)
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=otherwise):
            for branch in otherwise:
                yield from imports_of(branch, package)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from imports_of(child, package)


def with_parents(name: str) -> Iterator[str]:
    """To import `a.b.c` also runs `a` and `a.b`."""
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def direct_imports(name: str) -> set[str]:
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = imports_of(ast.parse(path.read_text()), package)
    return {module for imported in found for module in with_parents(imported)}


def reachable(name: str) -> set[str]:
    """Everything that a module may import, and what that may import, as far as it is ours."""
    seen: set[str] = set()
    waiting = list(with_parents(name))
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += direct_imports(module) - OPTIONAL.get(module, set()) if module in MODULES else []
    return seen


def run(code: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python code in a fresh process of a user whose home and working folder are empty."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_", "ONESHEET_"))
    }
    return run_command(
        [sys.executable, "-c", code, *arguments],
        check=True,
        cwd=home,
        env={**environment, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


# ------------------------------------------------------------------------------------------ what imports what


def test_the_reader_of_imports_sees_them_all() -> None:
    source = """
import a.b
from c import d
from . import e
from ..f import g
if TYPE_CHECKING:
    import hidden
else:
    import h
def function():
    try:
        import i
    except ImportError:
        from j.k import l
"""
    found = set(imports_of(ast.parse(source), "onesheet.serving"))

    assert found >= {"a.b", "c.d", "onesheet.serving.e", "onesheet.f.g", "h", "i", "j.k"}
    assert "hidden" not in found
    assert "onesheet.serving.app" in MODULES


@pytest.mark.parametrize("name", LIGHT_MODULES)
def test_what_serves_imports_nothing_that_trains(name: str) -> None:
    forbidden = {module for module in reachable(name) if module in (*HEAVY, *HEAVY_PACKAGES)}

    assert not forbidden


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name != "onesheet.__main__" and not name.startswith("onesheet.cli")]
)
def test_nothing_imports_the_command_line(name: str) -> None:
    assert "onesheet.cli" not in direct_imports(name)


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("onesheet.ui")])
def test_the_web_page_asks_the_api_and_never_the_model(name: str) -> None:
    forbidden = ("onesheet.predictor", "onesheet.bundle", "onesheet.serving", "onesheet.predictionlog", "onnxruntime")

    assert not [module for module in direct_imports(name) if module.startswith(forbidden)]


def test_what_serves_loads_nothing_that_trains(home: Path) -> None:
    code = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
import onesheet
from onesheet.serving import create_app
from PIL import Image
predictor = onesheet.load_predictor()
predictor.predict([Image.new("RGB", (60, 90))])
create_app(predictor=predictor).openapi()
print(json.dumps(sorted(sys.modules)))
"""
    names = [name for name in LIGHT_MODULES if name not in BENTOML_MODULES]
    loaded = set(json.loads(run(code, home, *names).stdout))

    assert "onnxruntime" in loaded
    assert not loaded & {*HEAVY, *HEAVY_PACKAGES, "onesheet.cli", "fsspec"}


# ---------------------------------------------------------------------------------------- what an import does

WATCH = """
import json, logging, os, sys
read, written, connected = [], [], []
get = os._Environ.__getitem__
def recorded(self, name):
    read.append(name)
    return get(self, name)
os._Environ.__getitem__ = recorded
def watch(event, arguments):
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        written.append(str(arguments[0]))
    elif event in ("os.mkdir", "os.rename", "os.remove"):
        written.append(f"{event} {arguments[0]}")
    elif event.startswith("socket.") and event != "socket.gethostname":
        connected.append(event)
sys.addaudithook(watch)
before = set(sys.modules)
"""
REPORT = """
print(json.dumps({
    "read": read,
    "written": written,
    "connected": connected,
    "loaded": sorted(set(sys.modules) - before),
    "handlers": len(logging.root.handlers),
    "level": logging.root.level,
}))
"""


def watched(code: str, home: Path) -> dict[str, Any]:
    done = run(WATCH + code + REPORT, home)
    assert done.stderr == ""
    assert list(home.rglob("*")) == []
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_importing_onesheet_does_nothing(home: Path) -> None:
    report = watched("import onesheet", home)

    assert {name.partition(".")[0] for name in report.pop("loaded")} <= {"onesheet", "__future__", "typing", "_typing"}
    assert report == {"read": [], "written": [], "connected": [], "handlers": 0, "level": 30}


@pytest.mark.parametrize(
    "name", [*(f"onesheet.{light}" for light in LIGHT if f"onesheet.{light}" in MODULES), "onesheet.cli"]
)
def test_importing_a_part_reads_no_setting_and_configures_nothing(name: str, home: Path) -> None:
    report = watched(f"import {name}", home)

    assert [variable for variable in report["read"] if variable.startswith("ONESHEET_")] == []
    assert (report["written"], report["connected"], report["handlers"], report["level"]) == ([], [], 0, 30)
    assert "onnxruntime" not in report["loaded"]


def test_the_command_line_loads_no_model_to_show_its_help(home: Path) -> None:
    loaded = watched("import onesheet.cli", home)["loaded"]

    assert not {"numpy", "PIL", "onnxruntime", "pydantic", "fastapi", "rich.console"} & set(loaded)


def test_predicting_writes_nothing_and_calls_nobody(home: Path) -> None:
    code = """
from onesheet import load_predictor
from PIL import Image
load_predictor().predict([Image.new("RGB", (60, 90), "red")] * 20)
if os.path.isdir("/proc/self/fd"):  # also what native code has opened
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            connected.append(target)
        elif target.startswith(os.environ["HOME"]):
            written.append(target)
"""
    report = watched(code, home)

    assert (report["written"], report["connected"]) == ([], [])


def test_the_public_names() -> None:
    assert sorted(onesheet.__all__) == ["Prediction", "Predictor", "load_predictor"]
    for name in onesheet.__all__:
        assert getattr(onesheet, name).__module__ == "onesheet.predictor"
    with pytest.raises(AttributeError, match="'onesheet' has no attribute 'train'"):
        onesheet.train  # noqa: B018


@pytest.mark.skipif(sys.platform != "linux", reason="where threads are files")
def test_tables_are_read_without_threads_of_arrow(home: Path) -> None:
    """They outlive what they read, and abort the process at its end, now and then."""
    code = """
import os
import pyarrow.parquet
from onesheet import load_predictor
from onesheet.similar import KnownPosters
from onesheet.parquet import read_table

predictor = load_predictor()
before = set(os.listdir("/proc/self/task"))
assert read_table(predictor.reference).num_rows
KnownPosters.read(predictor.reference)
print(len(set(os.listdir("/proc/self/task")) - before))
"""
    assert run(code, home).stdout == "0\n"
