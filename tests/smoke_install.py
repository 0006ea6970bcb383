"""Try an installed onesheet as its first user would: one answer on the command line, and one over HTTP.

It needs nothing but the base install: `uv run --isolated --no-project --with dist/*.whl python tests/smoke_install.py`.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import typer
from PIL import Image

from onesheet.tune import running_service


def main() -> None:
    """Make a poster, and ask for its genres twice."""
    poster = _poster()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "poster.jpg")
        file.write_bytes(poster)
        command = [sys.executable, "-m", "onesheet", "predict", str(file), "--json"]
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    with running_service({"ONESHEET_THREADS": "1"}) as service:
        answer = httpx.post(f"{service.url}/predict", files={"file": poster}, trust_env=False).raise_for_status().json()
    assert answer["topk"][0]["label"] == said["topk"][0]["label"], (answer, said)
    typer.echo(f"predict and serve agree: {said['topk'][0]['label']}")


def _poster() -> bytes:
    picture = io.BytesIO()
    Image.effect_noise((8, 12), 100).convert("RGB").resize((224, 336)).save(picture, "JPEG")
    return picture.getvalue()


if __name__ == "__main__":
    main()
