"""Every kind of sample that a picture may have, against pixels worked out from the rules of its format."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from onesheet.image import decode, to_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT = 32, 48
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PALETTE = np.random.default_rng(3).integers(0, 255, (256, 3), np.uint8)


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(to_rgb(decode(data)))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def as_png(samples: NDArray[np.integer], depth: int, colour: int, transparency: bytes = b"") -> bytes:
    """Encode samples `[H, W, C]` by the book."""
    if depth == 16:
        rows = samples.astype(">u2").view(np.uint8).reshape(HEIGHT, -1)
    elif depth == 8:
        rows = samples.astype(np.uint8).reshape(HEIGHT, -1)
    else:
        bits = np.unpackbits(samples.astype(np.uint8), axis=2)[:, :, 8 - depth :]
        rows = np.packbits(bits.reshape(HEIGHT, -1), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0)),
            chunk(b"PLTE", PALETTE[: 2**depth].tobytes()) if colour == 3 else b"",
            chunk(b"tRNS", transparency) if transparency else b"",
            chunk(b"IDAT", zlib.compress(raw)),
            chunk(b"IEND", b""),
        )
    )


def expected(
    samples: NDArray[np.integer], depth: int, colour: int, key: NDArray[np.integer] | None
) -> NDArray[np.float64]:
    """On a white page, 0-255."""
    if colour == 3:
        rgb, alpha = PALETTE[samples[..., 0]].astype(float), np.ones(samples.shape[:2])
        if key is not None:
            alpha = np.append(key, np.full(256, 255))[samples[..., 0]] / 255
    else:
        scaled = samples / (2**depth - 1)
        colours = scaled[..., : 1 if colour in (0, 4) else 3]
        rgb = 255 * np.broadcast_to(colours, (*colours.shape[:2], 3))
        alpha = scaled[..., -1] if colour in (4, 6) else np.ones(samples.shape[:2])
        if key is not None:
            alpha = alpha * (samples != key).any(axis=2)
    return rgb * alpha[..., None] + 255 * (1 - alpha[..., None])


KINDS = (
    [(d, 0) for d in (1, 2, 4, 8, 16)] + [(d, 3) for d in (1, 2, 4, 8)] + [(d, c) for c in (2, 4, 6) for d in (8, 16)]
)


@pytest.mark.parametrize(
    ("depth", "colour", "keyed"),
    # With an alpha channel there is no transparent colour beside it.
    [(depth, colour, keyed) for depth, colour in KINDS for keyed in (False, True) if not keyed or colour < 4],
)
def test_every_kind_of_png_shows_what_its_samples_say(depth: int, colour: int, keyed: bool) -> None:
    random = np.random.default_rng(depth * 8 + colour)
    samples = random.integers(0, 2**depth, (HEIGHT, WIDTH, CHANNELS[colour]), np.uint16)
    key, transparency = None, b""
    if keyed and colour == 3:
        key = random.integers(0, 256, 2**depth, np.uint8)
        transparency = key.tobytes()
    elif keyed:
        # The brightest: were it not transparent it would be white too, so the others are made black.
        key = samples[0, 0]
        samples[::2] = key
        transparency = key.astype(">u2").tobytes()

    found = pixels_of(as_png(samples, depth, colour, transparency))

    np.testing.assert_allclose(found, expected(samples, depth, colour, key), atol=2)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_black_may_be_the_transparent_grey(depth: int) -> None:
    samples = np.zeros((HEIGHT, WIDTH, 1), np.uint16)
    samples[: HEIGHT // 2] = 2 ** (depth - 1)

    found = pixels_of(as_png(samples, depth, 0, b"\0\0"))

    assert (found[HEIGHT // 2 :] == 255).all()
    assert (found[: HEIGHT // 2] != 255).all() or depth == 1  # whose only other sample is white


def test_a_palette_with_one_transparent_entry() -> None:
    samples = np.random.default_rng(1).integers(0, 4, (HEIGHT, WIDTH, 1), np.uint8)
    key = np.array([255, 0, 255, 255], np.uint8)

    found = pixels_of(as_png(samples, 2, 3, key.tobytes()))

    np.testing.assert_allclose(found, expected(samples, 2, 3, key), atol=1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_transparent_palettes_of_other_formats_show_white(kind: str) -> None:
    samples = np.random.default_rng(2).integers(0, 4, (HEIGHT, WIDTH), np.uint8)
    image = Image.fromarray(samples, "L")
    image.putpalette(PALETTE[:4].tobytes())
    file = io.BytesIO()
    image.info["transparency"] = 2
    image.save(file, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))

    colours = PALETTE[:4].copy()
    colours[2] = 255
    np.testing.assert_array_equal(pixels_of(file.getvalue()), colours[samples])


def adobe(transform: int) -> bytes:
    return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
@pytest.mark.parametrize("colour", [(255, 255, 255), (200, 40, 90), (0, 0, 0), (12, 180, 60)], ids=str)
def test_four_channels_of_a_jpeg_are_inverted_as_adobe_does(colour: tuple[int, int, int], transform: int) -> None:
    """Photoshop stores 255 - ink; with transform 2 the first three as YCbCr of the ink, as if it were RGB."""
    file = io.BytesIO()
    ink = tuple(255 - value for value in colour)
    as_ycc = Image.new("RGB", (1, 1), ink).convert("YCbCr").tobytes()
    stored = (*(as_ycc if transform == 2 else colour), 255)
    # Pillow inverts what it writes.
    Image.new("CMYK", (WIDTH, HEIGHT), tuple(255 - value for value in stored)).save(file, "JPEG", quality=100)
    data = file.getvalue()
    start = data.index(b"\xff\xee")
    data = data[:start] + adobe(transform) + data[start + 16 :]

    found = pixels_of(data)

    np.testing.assert_allclose(found, np.broadcast_to(colour, found.shape), atol=4)


def test_a_grey_jpeg() -> None:
    ramp = np.linspace(0, 255, HEIGHT).astype(np.uint8)[:, None].repeat(WIDTH, 1)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "JPEG", quality=100)

    np.testing.assert_allclose(pixels_of(file.getvalue()), ramp[..., None].repeat(3, 2), atol=3)


def test_an_opened_image_of_sixteen_bits_with_a_transparent_grey() -> None:
    samples = np.full((HEIGHT, WIDTH, 1), 300, np.uint16)
    samples[:5] = 40_000
    image = Image.open(io.BytesIO(as_png(samples, 16, 0, struct.pack(">H", 300))))

    found = np.asarray(to_rgb(image))

    assert (found[5:] == 255).all()
    assert (found[:5] == 40_000 >> 8).all()
