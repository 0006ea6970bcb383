"""Fixtures that all families of tests share: a tiny bundle, its predictor, and posters of one colour."""

from __future__ import annotations

import csv
import functools
import io
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The test processes share the cores: threads of one operation would wait for one another. Read when numpy and torch are
# loaded, here and in all processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
import numpy as np
import pytest
import structlog
from filelock import FileLock
from PIL import Image

from onesheet.bundle import load_bundle, write_bundle
from onesheet.image import PreprocessSpec
from onesheet.log import CHATTY
from onesheet.predictor import Predictor, load_predictor
from tests import leak_check
from tests.processes import MAX_WAIT, eventually, started_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gcp_storage_emulator.server import Server

    from onesheet.data.manifest import Manifest

    MadeOnce = Callable[[str, Callable[[Path], object]], Path]

REQUIRE_ALL = os.environ.get("ONESHEET_REQUIRE_ALL") == "1"
GENRES = ("Comedy", "Drama", "Horror", "Romance")
HEIGHT, WIDTH, EMBEDDING = 32, 24, 8


def pytest_configure(config: pytest.Config) -> None:
    leak_check.configure(config)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in what a script starts with `&`; all that the tests start and then interrupt would ignore it too.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests of services, browsers and commands wait for these much of their time."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session", autouse=True)
def _keep_priority() -> Iterator[None]:
    """Commands that let others go first run in this process too; it could not go back, nor what it starts later."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("onesheet.priority._LEAST", 0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _patient_clients() -> Iterator[None]:
    """Requests of tests wait as long as for any other condition; httpx gives up after five seconds."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("connect", "read", "write", "pool"):
            patched.setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, name, float(MAX_WAIT))
        yield


@pytest.fixture(scope="session", autouse=True)
def _shared_certificates() -> Iterator[None]:
    """Every `httpx.get` would read the trusted certificates again: 20 ms, more than all the rest of most requests."""
    create = functools.cache(lambda _, *options: httpx.create_ssl_context(*options))

    def shared(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        return create((os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")), verify, cert, trust_env)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("httpx._transports.default.create_ssl_context", shared)
        yield


@pytest.fixture(autouse=True)
def _restored_interrupt() -> Iterator[None]:
    """Undo what a command that was interrupted does to this process: the next Ctrl-C would kill it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Undo what commands do to the logging of the whole process: their handler writes to where one test captures it."""
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in (None, *CHATTY)}
    yield
    # Only theirs goes: pytest comes and goes with its own between set-up, call and tear-down.
    root.handlers = [handler for handler in root.handlers if type(handler) is not logging.StreamHandler]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def uncounted_processes() -> Iterator[None]:
    """Start processes without coverage, which takes a third more time, where other tests count the same lines."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


@pytest.fixture(scope="session")
def preloaded_commands() -> Iterator[str]:
    """A PATH on which `onesheet` and `dvc` start in a moment, see `tests/preloaded.py`; torch is imported once."""
    with tempfile.TemporaryDirectory(prefix="commands-") as folder:
        command = [sys.executable, Path(__file__).with_name("preloaded.py"), folder]
        uncounted = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}
        with started_process(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=uncounted) as server:
            eventually(lambda: Path(folder, "dvc").exists() or server.poll() is not None)
            assert server.poll() is None
            yield os.pathsep.join([folder, str(Path(sys.executable).parent), os.environ["PATH"]])


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """`made_once("name", fill)`: a folder that one test process fills while others wait, and nobody changes later."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def made(name: str, fill: Callable[[Path], object]) -> Path:
        folder, whole = shared / name, shared / f"{name}.whole"
        with FileLock(shared / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)  # the process that had begun it has failed
                folder.mkdir()
                fill(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle that judges a poster by its mean colour, in microseconds.

    Bright is Comedy, blue is Drama, dark is Horror, red is Romance.
    """
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    files = {
        "model.onnx": _tiny_model(),
        "reference.parquet": _tiny_reference(),
        "MODEL_CARD.md": b"# tiny\n\nA bundle for tests.\n",
    }
    write_bundle(_tiny_metadata(), files, folder)
    return folder


@pytest.fixture(scope="session")
def endless_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny bundle with a loop in its graph whose condition stays true."""
    import onnx

    bundle = load_bundle(tiny_bundle)
    model = onnx.load_from_string(bundle.model)
    _never_end(model.graph)
    folder = tmp_path_factory.mktemp("endless") / "bundle"
    metadata = bundle.metadata.model_dump(exclude={"files", "schema_version"})
    write_bundle(metadata, {**bundle.files, "model.onnx": model.SerializeToString()}, folder)
    return folder


def _never_end(graph: Any) -> None:
    from onnx import TensorProto, helper, numpy_helper

    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["going_on"]), helper.make_node("Identity", ["x"], ["x_after"])],
        "body",
        [value("i", TensorProto.INT64, []), value("going", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, None)],
        [value("going_on", TensorProto.BOOL, []), value("x_after", TensorProto.FLOAT, None)],
    )
    for node in graph.node:
        node.output[:] = ["before" if name == "probabilities" else name for name in node.output]
    graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    graph.node.append(helper.make_node("Loop", ["", "true", "before"], ["probabilities"], body=body))


@pytest.fixture(scope="session")
def predictor(tiny_bundle: Path) -> Predictor:
    """The tiny bundle, ready to answer."""
    return load_predictor(tiny_bundle, threads=2)


@pytest.fixture(scope="session")
def make_poster() -> Callable[..., bytes]:
    """`make_poster(colour="red", size=(60, 90), kind="JPEG")`: an encoded picture of one colour."""

    def make(colour: str = "red", size: tuple[int, int] = (60, 90), kind: str = "JPEG") -> bytes:
        encoded = io.BytesIO()
        Image.new("RGB", size, colour).save(encoded, kind)
        return encoded.getvalue()

    return make


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """`start_process(command, stderr=…)`: a process that ends with the test, and all that it has started."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(started_process(*arguments, **options))


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """`free_port()`: nobody listens there now."""

    def found() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return int(listener.getsockname()[1])

    return found


@pytest.fixture
def emulator(free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Cloud Storage with one empty bucket, `posters`, for all of Google's clients in this process."""
    from gcp_storage_emulator.server import create_server

    port = free_port()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # nor look for a metadata server in the network
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="posters")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def posters() -> Path:
    """The real posters: a folder with train.csv and Images/, named by ONESHEET_POSTERS."""
    named = os.environ.get("ONESHEET_POSTERS")
    if named and Path(named, "train.csv").is_file():
        return Path(named)
    if REQUIRE_ALL:
        pytest.fail("ONESHEET_POSTERS does not name the real posters")
    pytest.skip("ONESHEET_POSTERS does not name the real posters")


@pytest.fixture(scope="session")
def made_up_posters(made_once: MadeOnce) -> Path:
    """Raw data of our own making: 240 films whose genres show in colour and pattern, so that they can be learned."""
    return made_once("raw", _make_up_posters)


def _make_up_posters(folder: Path) -> None:
    (folder / "Images").mkdir()
    random = np.random.default_rng(3)
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Id", "Genre", *GENRES, "N/A"])
        for number in range(240):
            genres = [genre for genre in GENRES if random.random() < 0.4] or ["Drama"]
            film = f"tt{number:07d}"
            writer.writerow([film, str(genres), *(int(genre in genres) for genre in GENRES), 0])
            _draw_poster(genres, random).save(folder / "Images" / f"{film}.jpg", quality=90)


def _draw_poster(genres: list[str], random: np.random.Generator) -> Image.Image:
    """Noise of its own for each film, and a patch for each genre in the genre's corner."""
    noise = random.integers(0, 120, (9, 6, 3), np.uint8)
    poster = Image.fromarray(noise).resize((60, 90), Image.Resampling.BICUBIC)
    for genre in genres:
        left, top = divmod(GENRES.index(genre), 2)
        colour = ("yellow", "blue", "white", "red")[GENRES.index(genre)]
        poster.paste(colour, (30 * left, 45 * top, 30 * left + 30, 45 * top + 45))
    return poster


def _tiny_metadata() -> dict[str, Any]:
    return {
        "name": "tiny",
        "version": "1.2.3",
        "created": datetime(2026, 1, 2, tzinfo=UTC),
        "git_commit": None,
        "architecture": "mean_colour",
        "data": {
            "fingerprint": "0" * 64,
            "seed": 1,
            "posters": {"train": 8, "validation": 2, "test": 2},
            "genre_counts": dict.fromkeys(GENRES, 2),
        },
        "genres": GENRES,
        "preprocess": {"height": HEIGHT, "width": WIDTH},
        "thresholds": {"Comedy": 0.5, "Drama": 0.4, "Horror": 0.6, "Romance": 0.5},
        "calibration": {"method": "none", "scale": (1.0,) * len(GENRES), "shift": (0.0,) * len(GENRES)},
        "metrics": {"test": {"f1_macro": 0.5, "n": 2}},
    }


def _tiny_model() -> bytes:
    """uint8 images -> mean colour (0-1) -> genres; the embedding is a random projection of the colour."""
    from onnx import TensorProto, helper

    #                   Comedy Drama Horror Romance
    weights = np.array([[4.0, -3.0, -4.0, 9.0], [4.0, -2.0, -4.0, -6.0], [4.0, 9.0, -4.0, -6.0]])
    constants = {
        "axes": np.array([1, 2], np.int64),
        "white": np.array(255, np.float32),
        "projection": np.random.default_rng(7).normal(size=(3, EMBEDDING)).astype(np.float32),
        "weights": weights.astype(np.float32),
        "bias": np.array([-8.0, -3.0, 3.0, -3.0], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["samples"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["samples", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["colour"]),
        helper.make_node("MatMul", ["colour", "projection"], ["embedding"]),
        helper.make_node("Gemm", ["colour", "weights", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
    ]
    return _checked(nodes, constants, EMBEDDING)


def _checked(nodes: list[Any], constants: dict[str, np.ndarray], embedding: int) -> bytes:
    """A graph as bundles promise it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", HEIGHT, WIDTH, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(GENRES)]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", embedding]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _tiny_reference() -> bytes:
    """Two posters' probabilities and embeddings, as Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    random = np.random.default_rng(7)
    table = pa.table(
        {
            "id": ["tt0000001", "tt0000002"],
            "title": ["The Bright One", None],
            "genres": [["Comedy", "Romance"], ["Drama"]],
            "probabilities": random.random((2, len(GENRES))).tolist(),
            "embedding": random.normal(size=(2, EMBEDDING)).tolist(),
        }
    )
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_bundle(manifest, "2.0.0", skill=1.0)`: a bundle that tells made-up posters by the colours of their corners.

    It is fitted to the training posters of the manifest. At skill 0 its answers are drawn from a hat.
    """

    def make(manifest: Manifest, version: str, skill: float = 1.0) -> Path:
        folder = tmp_path_factory.mktemp("made") / "bundle"
        _write_corner_bundle(manifest, version, skill, folder)
        return folder

    return make


def _write_corner_bundle(manifest: Manifest, version: str, skill: float, folder: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    from onesheet.evaluation.metrics import multilabel_metrics
    from onesheet.export.reference import reference_table

    spec = PreprocessSpec(height=HEIGHT, width=WIDTH)
    train, validation, test = (manifest.split(name) for name in ("train", "validation", "test"))
    pictures = {e.id: manifest.load(e, spec) for e in (*train.entries, *validation.entries, *test.entries)}

    def corners(part: Manifest) -> np.ndarray:
        pixels = np.stack([pictures[entry.id].pixels for entry in part.entries]) / 255
        halves = [pixels[:, top : top + 16, left : left + 12] for left in (0, 12) for top in (0, 16)]
        return np.concatenate([half.mean(axis=(1, 2)) for half in halves], axis=1)

    fits = [LogisticRegression(C=100).fit(corners(train), truth) for truth in train.targets().T]
    weights, bias = np.stack([fit.coef_[0] for fit in fits], 1), np.array([fit.intercept_[0] for fit in fits])
    hat = np.random.default_rng(5).normal(size=weights.shape) * 3
    weights, bias = skill * weights + (1 - skill) * hat, skill * bias - (1 - skill) * corners(train).mean(0) @ hat

    def answers(part: Manifest) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-(corners(part) @ weights + bias))), np.float32)

    reference = reference_table(
        validation.entries, [pictures[e.id] for e in validation.entries], answers(validation), corners(validation)
    )
    probabilities = answers(test)
    metadata = _tiny_metadata() | {
        "name": "corners",
        "version": version,
        "architecture": "corners",
        "data": {
            "fingerprint": manifest.fingerprint,
            "seed": manifest.seed,
            "posters": manifest.counts(),
            "genre_counts": dict(zip(GENRES, train.targets().sum(axis=0).tolist(), strict=True)),
        },
        "thresholds": dict.fromkeys(GENRES, 0.5),
        "metrics": {
            "test": multilabel_metrics(probabilities, test.targets(), probabilities >= 0.5, GENRES),
            "parity": {"max_difference": 1e-7, "posters": 64},
        },
    }
    files = {
        "model.onnx": _corner_model(weights, bias),
        "reference.parquet": reference,
        "MODEL_CARD.md": b"# corners\n",
    }
    write_bundle(metadata, files, folder)


def _corner_model(weights: np.ndarray, bias: np.ndarray) -> bytes:
    """uint8 images -> mean colour of each corner (0-1), which is the embedding -> genres."""
    from onnx import TensorProto, helper

    constants = {
        "axes": np.array([1, 2], np.int64),
        "white": np.array(255, np.float32),
        "weights": weights.astype(np.float32),
        "bias": bias.astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["samples"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["samples", "white"], ["scaled"]),
    ]
    for number, (left, top) in enumerate((left, top) for left in (0, 12) for top in (0, 16)):
        constants |= {
            f"start{number}": np.array([top, left], np.int64),
            f"end{number}": np.array([top + 16, left + 12], np.int64),
        }
        nodes += [
            helper.make_node("Slice", ["scaled", f"start{number}", f"end{number}", "axes"], [f"corner{number}"]),
            helper.make_node("ReduceMean", [f"corner{number}", "axes"], [f"mean{number}"], keepdims=0),
        ]
    nodes += [
        helper.make_node("Concat", [f"mean{number}" for number in range(4)], ["embedding"], axis=1),
        helper.make_node("Gemm", ["embedding", "weights", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
    ]
    return _checked(nodes, constants, embedding=12)
