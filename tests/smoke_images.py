"""Run every image as a careful operator would, and see whether it does its work: `inv images`, then `inv smoke`.

Containers get a read-only root, no capabilities and no new privileges, as under compose.yaml; what they may write to is
a volume at /onesheet and a tmpfs at /tmp.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import typer
from PIL import Image

from onesheet.bundle import load_bundle

CAREFUL = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
FILMS = 240
# Not in an image: what builds, and but for training, torch.
LOOK = """
import importlib.util, os, shutil
assert os.getuid() == os.getgid() == 10001, os.getuid()
assert [name for name in ("uv", "gcc", "cc", "make", "git", "curl") if shutil.which(name)] == []
assert (importlib.util.find_spec("torch") is not None) == (os.environ["IMAGE"] == "train")
for path in ("/opt/onesheet/x", "/usr/x", "/x"):
    try:
        open(path, "w")
    except OSError:
        continue
    raise AssertionError(f"{path} can be written")
open("/tmp/x", "w"), open("/onesheet/x", "w")
"""


class Images:
    """The images under one tag, and the tool that runs them.

    Args:
        tool: `docker` or `podman`.
        tag: Of the images.
    """

    def __init__(self, tool: str, tag: str) -> None:
        self._tool, self._tag = tool, tag

    def run(self, image: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """What a container prints that ends by itself.

        Raises:
            AssertionError: It fails.
        """
        done = self._call("run", "--rm", *CAREFUL, *options, self._name(image), *arguments)
        assert done.returncode == 0, f"{image} {' '.join(arguments)}: {done.stderr[-2000:]}"
        return done.stdout

    @contextmanager
    def service(self, image: str, port: int, *options: str) -> Iterator[str]:
        """The address of a service, once its own health check says that it is there; ended by SIGTERM, and with 0.

        Raises:
            AssertionError: It does not become healthy, or ends badly.
        """
        started = self._call("run", "--detach", f"--publish=127.0.0.1::{port}", *CAREFUL, *options, self._name(image))
        assert started.returncode == 0, started.stderr
        container = started.stdout.strip()
        try:
            self._wait_until_healthy(container)
            yield f"http://{self._call('port', container, f'{port}/tcp').stdout.split()[0]}"
            self._call("stop", "--time=300", container)
            assert self._inspect(container)["State"]["ExitCode"] == 0
        except BaseException:
            typer.echo(self._call("logs", "--tail=30", container).stderr)
            raise
        finally:
            self._call("rm", "--force", container)

    def config(self, image: str) -> dict[str, Any]:
        """What the image says of itself."""
        return dict(json.loads(self._call("image", "inspect", self._name(image)).stdout)[0])

    def _wait_until_healthy(self, container: str) -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            # Docker asks by itself; Podman leaves that to systemd, so that it is asked here.
            if self._tool == "podman":
                if self._call("healthcheck", "run", container).returncode == 0:
                    return
            elif self._inspect(container)["State"]["Health"]["Status"] == "healthy":
                return
            time.sleep(0.5)
        raise AssertionError("it does not become healthy")

    def _inspect(self, container: str) -> dict[str, Any]:
        return dict(json.loads(self._call("container", "inspect", container).stdout)[0])

    def _name(self, image: str) -> str:
        return f"{'localhost/' if self._tool == 'podman' else ''}onesheet-{image}:{self._tag}"

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self._tool, *arguments], capture_output=True, text=True, timeout=900, check=False)


def api(images: Images, image: str = "api") -> str:
    """The API answers with a prediction, and keeps it in its log."""
    with images.service(image, 8000) as url:
        file = {"file": ("poster.jpg", _poster())}
        answer = httpx.post(f"{url}/predict", files=file).raise_for_status().json()
        said = {"prediction_id": answer["prediction_id"], "genres": ["Drama"]}
        httpx.post(f"{url}/feedback", json=said).raise_for_status()
        return f"/predict: {answer['topk'][0]['label']} of {answer['model']['name']} {answer['model']['version']}"


def bento(images: Images) -> str:
    """The same under BentoML."""
    return api(images, "bento")


def frontend(images: Images) -> str:
    """The page comes; what it shows needs a browser, see tests/e2e/test_page.py."""
    with images.service("frontend", 8501) as url:
        assert "<title>" in httpx.get(url).raise_for_status().text
        return "the page comes"


def drift(images: Images) -> str:
    """Compares what there is, which is nothing yet."""
    # By itself it would compare at once, and one comparison at a time is all it makes.
    with images.service("drift", 8002, "--env=ONESHEET_DRIFT_EVERY_HOURS=0") as url:
        found = httpx.post(f"{url}/drift/run", timeout=120).raise_for_status().json()
        assert "onesheet_drift_verdict" in httpx.get(f"{url}/metrics").raise_for_status().text
        return f"/drift/run: {found['verdict']}"


def train(images: Images) -> str:
    """Trains on mounted posters and exports; and becomes an agent of W&B where a sweep is named."""
    with _posters() as folder:
        work = (f"--volume={folder}:/onesheet", "--network=none")
        images.run("train", "data", "prepare", options=work)
        smoke = ("experiment=smoke", "trainer.epochs=1", "run_dir=outputs/smoke")
        images.run("train", "train", *smoke, options=work)
        images.run("train", "export", "outputs/smoke/best.ckpt", "--out", "models/smoke", "--no-int8", options=work)
        images.run("train", "sweep", "experiment=smoke", "trainer.epochs=1", "--trials=1", options=work)
        options = ("--labels=data/raw/train.csv", "--images=data/raw/Images", "--json")
        measured = json.loads(images.run("evaluate", *options, "--bundle=models/smoke", options=work))
    agent = ("--env=WANDB_SWEEP_ID=team/project/sweep", "--env=WANDB_API_KEY=", "--network=none")
    assert "wandb agent" in images.run("train", "--help", options=agent)
    return f"trains, exports, sweeps; the image evaluate measures its bundle on {measured['n']} posters"


def evaluate(images: Images) -> str:
    """Measures the starter model on mounted posters."""
    with _posters() as folder:
        options = ("--labels=data/raw/train.csv", "--images=data/raw/Images", "--json")
        mounted = (f"--volume={folder}/data:/onesheet/data:ro", "--network=none")
        return f"{json.loads(images.run('evaluate', *options, options=mounted))['n']} posters"


WORK: dict[str, Callable[[Images], str]] = {
    "api": api,
    "bento": bento,
    "frontend": frontend,
    "drift": drift,
    "evaluate": evaluate,
    "train": train,
}


@contextmanager
def _posters() -> Iterator[Path]:
    """A folder that a container's user may write to, with made-up posters where `data fetch` puts them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = folder / "data/raw/Images"
        pictures.mkdir(parents=True)
        genres = load_bundle().metadata.genres
        with (folder / "data/raw/train.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["Id", "Genre", *genres])
            for number in range(FILMS):
                genre = genres[number % len(genres)]
                rows.writerow([f"tt{number:07d}", [genre], *(int(genre == one) for one in genres)])
                (pictures / f"tt{number:07d}.jpg").write_bytes(_poster())
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        yield folder


def _poster() -> bytes:
    picture = io.BytesIO()
    Image.effect_noise((8, 12), 100).convert("RGB").resize((224, 336)).save(picture, "JPEG")
    return picture.getvalue()


def main() -> None:
    """Try the images that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", choices=[*WORK, []], metavar="IMAGE")
    parser.add_argument("--tool", choices=["docker", "podman"], default="docker")
    parser.add_argument("--tag", default="latest")
    wanted = parser.parse_args()
    images = Images(wanted.tool, wanted.tag)
    typer.echo("| image | size | user | `onesheet --version` | |\n|---|---:|---|---|---|")
    for image in wanted.images or WORK:
        described = images.config(image)
        images.run(image, "-c", LOOK, options=("--entrypoint=python", f"--env=IMAGE={image}"))
        version = images.run(image, "--version", options=("--entrypoint=onesheet",)).strip()
        megabytes = described["Size"] / 1e6
        typer.echo(
            f"| {image} | {megabytes:,.0f} MB | {described['Config']['User']} | {version} | {WORK[image](images)} |"
        )


if __name__ == "__main__":
    main()
