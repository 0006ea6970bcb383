"""Pictures of every make, and the command line called as a user calls it."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

# About pipes, signals and messages of POSIX, and about files of the repository, which Linux judges.
_NOT_ON_WINDOWS = [
    "test_alerts.py",
    "test_cli.py",
    "test_containers.py",
    "test_formats.py",
    "test_release.py",
    "test_workflows.py",
]
collect_ignore = _NOT_ON_WINDOWS if sys.platform == "win32" else []


@pytest.fixture(scope="session")
def scene() -> Image.Image:
    """A soft picture of 60 x 90 pixels, no turn or flip of which looks like it."""
    corners = np.array([[[250, 20, 20], [20, 230, 30]], [[20, 40, 240], [250, 250, 250]]], np.uint8)
    return Image.fromarray(corners).resize((60, 90), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """`encode(image, "JPEG", quality=95)`: the bytes of a file."""

    def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return encoded


@pytest.fixture(scope="session")
def make_png() -> Callable[..., bytes]:
    """`make_png(width, height, bits, colour_type, rows)`: a PNG put together by hand, true to its header or not."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def made(width: int, height: int, bits: int = 8, colour_type: int = 2, rows: bytes = bytes(1000)) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
        chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + chunks

    return made


@pytest.fixture(scope="session")
def claim_size() -> Callable[[bytes, int, int], bytes]:
    """`claim_size(data, width, height)`: a GIF or an extended WebP whose header says another size."""

    def claimed(data: bytes, width: int, height: int) -> bytes:
        if data.startswith(b"GIF8"):
            return data[:6] + struct.pack("<HH", width, height) + data[10:]
        assert data[12:16] == b"VP8X"
        sides = (side - 1 for side in (width, height))
        return data[:24] + b"".join(side.to_bytes(3, "little") for side in sides) + data[30:]

    return claimed


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output as JSON, one object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but the defaults, and an empty working folder."""
    for name in [name for name in os.environ if name.startswith("ONESHEET_")]:
        monkeypatch.delenv(name)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def onesheet(
    clean_environment: None,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., Outcome]:
    """`onesheet("predict", path)`: the command line in this process, on the tiny bundle."""
    monkeypatch.setenv("ONESHEET_BUNDLE", str(tiny_bundle))

    def run(*arguments: object) -> Outcome:
        from onesheet.cli import main

        monkeypatch.setattr(sys, "argv", ["onesheet", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        assert isinstance(stopped.value.code, int)
        return Outcome(stopped.value.code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def script() -> str:
    """The installed `onesheet`."""
    return str(Path(sys.executable).with_name("onesheet"))
