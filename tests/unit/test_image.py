"""Untrusted bytes become pixels, or one kind of error: every format, every oddity, every trick we know."""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from onesheet.errors import (
    CorruptImageError,
    EmptyImageError,
    ImageError,
    ImageNotFoundError,
    ImageShapeError,
    ImageTooLargeError,
    NotAFileError,
    NotAnImageError,
    UnreadableFileError,
    UnsupportedImageError,
)
from onesheet.image import ImageLimits, Picture, PreprocessSpec, decode, load_picture, read_bytes, to_rgb
from onesheet.image_statistics import image_statistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SPEC = PreprocessSpec(height=45, width=30)


def looks_like(picture: Picture, image: Image.Image, tolerance: float = 3) -> bool:
    """Whether the pixels are those of `image`, within the noise of a lossy format (0-255)."""
    expected = np.asarray(image.convert("RGB").resize((SPEC.width, SPEC.height), Image.Resampling.BILINEAR))
    return float(np.abs(picture.pixels.astype(float) - expected).mean()) < tolerance


# ------------------------------------------------------------------------------------------ what is answered


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("JPEG", {"quality": 95, "subsampling": 0, "optimize": True}),
        ("JPEG", {"quality": 95, "comment": b"x" * 60_000}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {"quality": 95}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_every_readable_format_gives_the_same_picture(
    scene: Image.Image, encode: Callable[..., bytes], kind: str, options: dict[str, Any]
) -> None:
    picture = load_picture(encode(scene, kind, **options), SPEC)

    assert looks_like(picture, scene)
    assert (picture.width, picture.height) == (60, 90)
    assert picture.pixels.shape == (45, 30, 3)
    assert picture.pixels.dtype == np.uint8


@pytest.mark.parametrize(
    ("mode", "kind", "tolerance"),
    [("L", "JPEG", 3), ("L", "PNG", 1), ("P", "PNG", 8), ("P", "GIF", 8), ("1", "PNG", 16), ("CMYK", "JPEG", 3)],
)
def test_every_colour_mode_looks_as_in_a_viewer(
    scene: Image.Image, encode: Callable[..., bytes], mode: str, kind: str, tolerance: float
) -> None:
    image = scene.convert(mode)

    assert looks_like(load_picture(encode(image, kind), SPEC), image, tolerance)


def test_cmyk_is_inverted_with_and_without_the_mark_of_adobe(scene: Image.Image, encode: Callable[..., bytes]) -> None:
    marked = encode(scene.convert("CMYK"), "JPEG", quality=95)
    start = marked.index(b"\xff\xee")
    (length,) = struct.unpack_from(">H", marked, start + 2)
    assert marked[start + 4 : start + 9] == b"Adobe"

    assert looks_like(load_picture(marked, SPEC), scene)
    assert looks_like(load_picture(marked[:start] + marked[start + 2 + length :], SPEC), scene)


@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (3, 2)], ids=["grey", "RGB"])
def test_sixteen_bits_are_scaled_and_not_clipped(
    make_png: Callable[..., bytes], channels: int, colour_type: int
) -> None:
    rows = b"".join(b"\0" + struct.pack(">H", round(65535 * y / 89)) * 60 * channels for y in range(90))

    column = load_picture(make_png(60, 90, 16, colour_type, rows), SPEC).pixels[:, 15].astype(float)

    np.testing.assert_allclose(column, np.linspace(0, 255, 45)[:, None].repeat(3, 1), atol=3)


def transparent(scene: Image.Image, mode: str) -> tuple[Image.Image, dict[str, Any]]:
    """The scene with its lower half fully transparent, and the options that save it so."""
    alpha = Image.new("L", scene.size, 255)
    alpha.paste(0, (0, 45, 60, 90))
    if mode in ("RGBA", "LA"):
        image = scene.convert(mode)
        image.putalpha(alpha)
        return image, {}
    painted = scene.copy()
    painted.paste((1, 2, 3), (0, 45, 60, 90))
    if mode == "RGB":
        return painted, {"transparency": (1, 2, 3)}
    if mode == "L":
        grey = scene.convert("L").point(lambda value: max(value, 1))
        grey.paste(0, (0, 45, 60, 90))
        return grey, {"transparency": 0}
    palette = painted.quantize(64)
    hole = palette.getpixel((30, 80))
    assert isinstance(hole, int)
    return palette, {"transparency": hole if mode == "P" else bytes(0 if i == hole else 255 for i in range(64))}


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("LA", "PNG"),
        ("RGB", "PNG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("P with alphas", "PNG"),
        ("P", "GIF"),
    ],
)
def test_what_is_transparent_shows_white(
    scene: Image.Image, encode: Callable[..., bytes], mode: str, kind: str
) -> None:
    image, options = transparent(scene, mode)

    pixels = load_picture(encode(image, kind, **options), SPEC).pixels

    assert (pixels[26:] == 255).all()
    assert (pixels[:20] != 255).any(axis=2).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO"])
def test_the_first_picture_of_several_decides(scene: Image.Image, encode: Callable[..., bytes], kind: str) -> None:
    others = [Image.new("RGB", scene.size, colour) for colour in ("black", "white")]

    data = encode(scene, kind, save_all=True, append_images=others)

    with Image.open(io.BytesIO(data)) as opened:
        assert opened.n_frames == 3  # type: ignore[attr-defined]
        assert opened.format == kind
    assert looks_like(load_picture(data, SPEC), scene)


# How a camera in each orientation stores what is to be seen upright: which side of the scene its first row and its
# first column are (Exif 2.32, tag 0112).
STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda seen: seen,  # top, left
    2: lambda seen: seen[:, ::-1],  # top, right
    3: lambda seen: seen[::-1, ::-1],  # bottom, right
    4: lambda seen: seen[::-1],  # bottom, left
    5: lambda seen: seen.swapaxes(0, 1),  # left, top
    6: lambda seen: seen[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda seen: seen[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda seen: seen[::-1].swapaxes(0, 1),  # left, bottom
}


def as_stored(scene: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(scene)))), exif


@pytest.mark.parametrize("scale", [1, 16], ids=["whole", "shrunk while decoded"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_jpeg_is_turned_as_its_exif_says(
    scene: Image.Image, encode: Callable[..., bytes], orientation: int, scale: int
) -> None:
    scene = scene.resize((60 * scale, 90 * scale))
    stored, exif = as_stored(scene, orientation)

    picture = load_picture(encode(stored, "JPEG", quality=95, exif=exif), SPEC)

    assert looks_like(picture, scene)
    assert (picture.width, picture.height) == scene.size


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "MPO"])
def test_so_are_the_other_formats(scene: Image.Image, encode: Callable[..., bytes], kind: str) -> None:
    stored, exif = as_stored(scene, 6)

    picture = load_picture(encode(stored, kind, exif=exif), SPEC)

    assert looks_like(picture, scene)
    assert (picture.width, picture.height) == (60, 90)


def test_a_decoded_picture_is_not_turned_a_second_time(scene: Image.Image, encode: Callable[..., bytes]) -> None:
    stored, exif = as_stored(scene, 6)

    assert looks_like(load_picture(decode(encode(stored, "PNG", exif=exif)), SPEC), scene)


TIFF_HEADER = b"Exif\0\0MM\0*\0\0\0\x08"
ODD_METADATA = {
    "nothing": b"",
    "no TIFF header": b"Exif\0\0",
    "another header": b"Exif\0\0not a TIFF header",
    "tags far away": b"Exif\0\0MM\0*\xff\xff\xff\xff",
    "too many tags": TIFF_HEADER + b"\xff\xff\x01\x12",
    "orientation 9": TIFF_HEADER + bytes.fromhex("0001 0112 0003 00000001 00090000 0000"),
    "orientation as text": TIFF_HEADER + bytes.fromhex("0001 0112 0002 00000002 36000000 0000"),
}
# Orientation 6 beside a text where a number belongs: it can be read, but Pillow cannot write it again.
SIDEWAYS_AND_ODD = TIFF_HEADER + bytes.fromhex("0002 0106 0002 00000003 61620000 0112 0003 00000001 00060000 00000000")


@pytest.mark.parametrize("name", [*ODD_METADATA, "sideways"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_odd_metadata_does_not_spoil_a_good_picture(
    scene: Image.Image, encode: Callable[..., bytes], name: str
) -> None:
    exif = ODD_METADATA.get(name, SIDEWAYS_AND_ODD)
    stored = scene if name in ODD_METADATA else as_stored(scene, 6)[0]
    jpeg = encode(stored, "JPEG", quality=95)
    marker = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif

    assert looks_like(load_picture(jpeg[:2] + marker + jpeg[2:], SPEC), scene)


def test_nor_does_metadata_that_is_not_even_hexadecimal(scene: Image.Image, encode: Callable[..., bytes]) -> None:
    text = PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n       8\nnothing hexadecimal")

    assert looks_like(load_picture(encode(scene, "PNG", pnginfo=text), SPEC), scene)


def test_a_decoded_jpeg_is_never_smaller_than_asked_for(encode: Callable[..., bytes]) -> None:
    data = encode(Image.new("RGB", (1000, 1500)), "JPEG")

    for side in (10, 125, 126, 300, 501, 1000, 2000):
        image = decode(data, at_least=(side, side))
        assert image.width >= min(side, 1000)
        assert image.info["original_size"] == (1000, 1500)
    assert decode(data, at_least=(125, 125)).size < (1000, 1500)


# ------------------------------------------------------------------------------------------- what is refused


REFUSED: dict[str, tuple[bytes, type[ImageError], str]] = {
    "empty": (b"", EmptyImageError, "empty"),
    "text": (b"I am not a poster.\n" * 100, NotAnImageError, "not a JPEG, PNG, WebP or GIF"),
    "a web page": (b"<!doctype html><p><svg></svg>", NotAnImageError, "not a JPEG"),
    "a video": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", NotAnImageError, "not a JPEG"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", UnsupportedImageError, "HEIC is not supported"),
    "HEIC by another brand": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", UnsupportedImageError, "HEIC is not supported"),
    "AVIF": (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", UnsupportedImageError, "AVIF is not supported"),
    "TIFF": (b"II*\0\x08\0\0\0", UnsupportedImageError, "TIFF is not supported"),
    "big-endian TIFF": (b"MM\0*\0\0\0\x08", UnsupportedImageError, "TIFF is not supported"),
    "BMP": (b"BM\x36\0\0\0", UnsupportedImageError, "BMP is not supported"),
    "PDF": (b"%PDF-1.7\n", UnsupportedImageError, "PDF is not supported"),
    "ICO": (b"\0\0\1\0\1\0", UnsupportedImageError, "ICO is not supported"),
    "JPEG XL": (b"\xff\x0a\xfa", UnsupportedImageError, "JPEG XL is not supported"),
    "JPEG XL in a box": (b"\0\0\0\x0cJXL \r\n\x87\n", UnsupportedImageError, "JPEG XL is not supported"),
    "SVG": (b'\n <svg xmlns="http://www.w3.org/2000/svg"/>', UnsupportedImageError, "SVG is not supported"),
    "SVG as XML": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg/>', UnsupportedImageError, "SVG is not supported"),
    "JPEG's first bytes": (b"\xff\xd8\xff\xe0", CorruptImageError, "truncated or damaged"),
    "PNG's first bytes": (b"\x89PNG\r\n\x1a\n\0\0", CorruptImageError, "truncated or damaged"),
    "GIF's first bytes": (b"GIF89a\x10\0", CorruptImageError, "truncated or damaged"),
    "WebP's first bytes": (b"RIFF\xff\0\0\0WEBPVP8 ", CorruptImageError, "truncated or damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_readable_picture_is_refused(name: str) -> None:
    data, error, message = REFUSED[name]

    with pytest.raises(error, match=message) as refused:
        load_picture(data, SPEC)
    assert type(refused.value) is error


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "ICO", "AVIF"])
def test_pictures_that_the_decoder_could_read_but_we_do_not(
    scene: Image.Image, encode: Callable[..., bytes], kind: str
) -> None:
    with pytest.raises(UnsupportedImageError, match=f"{kind} is not supported; convert the picture to JPEG"):
        load_picture(encode(scene, kind), SPEC)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {})]
)
def test_a_truncated_picture_is_damaged(
    encode: Callable[..., bytes], kind: str, options: dict[str, Any], share: float
) -> None:
    data = encode(Image.effect_noise((60, 90), 60), kind, **options)

    with pytest.raises(CorruptImageError, match="truncated or damaged"):
        load_picture(data[: round(share * len(data))], SPEC)


@pytest.mark.parametrize(
    ("size", "error"),
    [
        ((1, 1), ImageShapeError),
        ((15, 90), ImageShapeError),
        ((1000, 50), ImageShapeError),
        ((20, 161), ImageShapeError),
        ((16, 16), None),
        ((20, 160), None),
        ((60_000, 60_000), ImageTooLargeError),
        ((10_000, 10_000), ImageTooLargeError),
        ((5_000, 5_001), ImageTooLargeError),
        ((2**31 - 1, 2**31 - 1), ImageTooLargeError),
        ((0, 0), CorruptImageError),
        ((100, 0), CorruptImageError),
    ],
    ids=str,
)
@pytest.mark.parametrize("strict", [True, False], ids=["warnings are errors", "warnings are ignored"])
def test_size_and_shape_are_judged_by_the_header(
    make_png: Callable[..., bytes], size: tuple[int, int], error: type[ImageError] | None, strict: bool
) -> None:
    width, height = size
    data = make_png(width, height, rows=bytes(min(1000, height) * (1 + 3 * min(1000, width))))

    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        if error is None:
            assert load_picture(data, SPEC).pixels.shape == (45, 30, 3)
        else:
            with pytest.raises(error):
                load_picture(data, SPEC)


@pytest.mark.parametrize("animated", [False, True])
@pytest.mark.parametrize(("kind", "side"), [("GIF", 65_535), ("GIF", 10_000), ("WEBP", 16_384), ("WEBP", 10_000)])
@pytest.mark.filterwarnings("ignore:Image size")
def test_a_header_that_claims_a_giant_is_refused(
    scene: Image.Image,
    encode: Callable[..., bytes],
    claim_size: Callable[[bytes, int, int], bytes],
    kind: str,
    side: int,
    animated: bool,
) -> None:
    frames = {"save_all": True, "append_images": [Image.new("RGB", (60, 90))]} if animated else {}
    data = encode(scene, kind, **({} if kind == "GIF" else {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}), **frames)

    # A WebP of a single picture that differs from its canvas is damaged, before it is too large.
    with pytest.raises((ImageTooLargeError, CorruptImageError)) as refused:
        load_picture(claim_size(data, side, side), SPEC)
    assert isinstance(refused.value, ImageTooLargeError) or (kind == "WEBP" and not animated)


@pytest.mark.filterwarnings("ignore:Image size")
def test_the_limit_of_the_decoder_is_told_where_ours_is_higher(make_png: Callable[..., bytes]) -> None:
    with pytest.raises(ImageTooLargeError, match=r"at most 178\.957 megapixels are read"):
        load_picture(make_png(20_000, 20_000), SPEC, ImageLimits(max_pixels=10**9))


def test_limits_are_kept(scene: Image.Image, encode: Callable[..., bytes], tmp_path: Path) -> None:
    data = encode(scene, "PNG")
    path = tmp_path / "poster.png"
    path.write_bytes(data)
    exact = ImageLimits(max_bytes=len(data), max_pixels=5400, min_side=60, max_aspect=1.5)

    for source in (data, path, str(path), scene, np.asarray(scene)):
        assert load_picture(source, SPEC, exact).width == 60

    for limits, error, message in (
        (ImageLimits(max_pixels=5399), ImageTooLargeError, r"60x90 pixels: at most 0\.005399 megapixels are read"),
        (ImageLimits(min_side=61), ImageShapeError, "60x90 pixels: a poster has at least 61 a side"),
        (ImageLimits(max_aspect=1.4), ImageShapeError, r"60x90 pixels: a poster's long side is at most 1\.4 times"),
    ):
        for source in (data, path, scene, np.asarray(scene)):
            with pytest.raises(error, match=message):
                load_picture(source, SPEC, limits)
    for source in (data, path):
        with pytest.raises(ImageTooLargeError, match=r"the file is larger than 0\.0"):
            load_picture(source, SPEC, ImageLimits(max_bytes=len(data) - 1))


# -------------------------------------------------------------------------------------------- files on disk


@pytest.mark.parametrize("name", ["missing.jpg", "missing/poster.jpg"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageNotFoundError, match="no such file"):
        read_bytes(tmp_path / name)


@pytest.mark.parametrize("name", ["nul\0byte.jpg", "x" * 5000, "poster.jpg/inside"])
def test_a_name_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "poster.jpg").touch()

    with pytest.raises(UnreadableFileError, match="cannot be read: "):
        read_bytes(tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such files")
def test_neither_folders_nor_pipes_nor_devices_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path, kind in ((tmp_path, "folder"), (tmp_path / "pipe", "special file"), (Path("/dev/zero"), "special file")):
        with pytest.raises(NotAFileError, match=f"is a {kind}"):
            read_bytes(path)


def test_no_more_of_a_file_is_read_than_may_be(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(2**40)  # no memory could hold it

    with pytest.raises(ImageTooLargeError, match="larger than 20 MiB"):
        read_bytes(path)


def test_the_error_never_tells_a_path_of_the_server(tmp_path: Path) -> None:
    for name in ("missing.jpg", "x" * 5000, "."):
        with pytest.raises(ImageError) as refused:
            load_picture(tmp_path / name, SPEC)
        assert str(tmp_path) not in refused.value.message


# --------------------------------------------------------------------------------- pictures already in memory


def test_all_kinds_of_source_give_the_same_pixels(
    scene: Image.Image, encode: Callable[..., bytes], tmp_path: Path
) -> None:
    data = encode(scene, "PNG")
    path = tmp_path / "named like.txt"
    path.write_bytes(data)

    pictures = [load_picture(source, SPEC) for source in (data, path, str(path), scene, np.asarray(scene))]

    for picture in pictures:
        np.testing.assert_array_equal(picture.pixels, pictures[0].pixels)
        assert (picture.width, picture.height) == (60, 90)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "F"]
)
def test_an_image_of_any_mode(scene: Image.Image, mode: str) -> None:
    steps = {"PA": ["P"], "RGBa": ["RGBA"]}.get(mode, [])
    image = scene
    for step in [*steps, mode]:
        image = image.convert(step)

    assert looks_like(load_picture(image, SPEC), scene if mode not in ("1", "L", "LA", "F") else scene.convert("L"), 16)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_an_image_of_sixteen_bits(mode: str) -> None:
    ramp = np.linspace(0, 65535, 90).astype(np.uint16)[:, None].repeat(60, 1)
    image = Image.frombytes(mode, (60, 90), ramp.astype(">u2" if mode == "I;16B" else "<u2").tobytes())

    np.testing.assert_array_equal(np.asarray(to_rgb(image)), (ramp >> 8)[..., None].repeat(3, 2))


def test_a_given_image_is_left_as_it_was(scene: Image.Image, encode: Callable[..., bytes]) -> None:
    stored, exif = as_stored(scene, 6)
    image = Image.open(io.BytesIO(encode(stored, "PNG", exif=exif)))

    assert looks_like(load_picture(image, SPEC), scene)
    assert image.size == (90, 60)
    assert "original_size" not in image.info
    np.testing.assert_array_equal(image, stored)
    assert looks_like(load_picture(image, SPEC), scene)


def test_a_given_image_may_carry_any_text(scene: Image.Image, encode: Callable[..., bytes]) -> None:
    text = PngInfo()
    text.add_text("original_size", "a note of the author")
    image = Image.open(io.BytesIO(encode(scene, "PNG", pnginfo=text)))

    assert load_picture(image, SPEC).width == 60


def test_a_given_image_that_turns_out_to_be_truncated(encode: Callable[..., bytes]) -> None:
    data = encode(Image.effect_noise((60, 90), 60), "JPEG")
    image = Image.open(io.BytesIO(data[: len(data) // 2]))

    with pytest.raises(CorruptImageError):
        load_picture(image, SPEC)


def test_a_grey_array_and_one_with_gaps(scene: Image.Image) -> None:
    grey = np.asarray(scene.convert("L"))
    assert looks_like(load_picture(grey, SPEC), scene.convert("L"))

    mirrored = np.asarray(scene)[:, ::-1]
    assert looks_like(load_picture(mirrored, SPEC), Image.fromarray(np.ascontiguousarray(mirrored)))


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.zeros((90, 60, 4), np.uint8), NotAnImageError),
        (np.zeros((3, 90, 60), np.uint8), NotAnImageError),
        (np.zeros((2, 90, 60, 3), np.uint8), NotAnImageError),
        (np.zeros(90, np.uint8), NotAnImageError),
        (np.zeros((), np.uint8), NotAnImageError),
        (np.zeros((90, 60, 3), np.float32), NotAnImageError),
        (np.zeros((90, 60), bool), NotAnImageError),
        (np.zeros((0, 60, 3), np.uint8), EmptyImageError),
        (np.zeros((5, 5), np.uint8), ImageShapeError),
    ],
    ids=lambda value: f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_an_array_that_is_no_picture(array: NDArray[Any], error: type[ImageError]) -> None:
    with pytest.raises(error):
        load_picture(array, SPEC)


# ------------------------------------------------------------------------------------------------ hostile bytes


def noise(kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    random = np.random.default_rng(5).integers(0, 256, (27, 18, 3), np.uint8)
    extra = {} if kind == "GIF" else {"exif": exif}
    Image.fromarray(random).save(file, kind, **extra, **options)
    return file.getvalue()


def _text() -> PngInfo:
    text = PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n 8\n4578", zip=True)
    text.add_itxt("XML:com.adobe.xmp", '<a tiff:Orientation="6"/>', zip=True)
    return text


SEEDS = [
    noise("JPEG"),
    noise("JPEG", progressive=True),
    noise("PNG"),
    noise("PNG", transparency=(1, 2, 3), icc_profile=bytes(40), pnginfo=_text()),
    noise("GIF"),
    noise("GIF", save_all=True, append_images=[Image.new("RGB", (18, 27), "red")]),
    noise("WEBP"),
    noise("WEBP", save_all=True, append_images=[Image.new("RGB", (18, 27), "red")]),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid picture with some bytes changed, put in, or cut off; its first bytes more often than the rest."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.one_of(st.integers(0, 120), st.integers(0, len(data) - 1))) % len(data)
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(min_size=1, max_size=4))
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(1, len(data))))])


@settings(max_examples=400, deadline=None, derandomize=True)
@given(data=damaged())
@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore:Image size")
def test_damaged_bytes_are_answered_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        picture = load_picture(data, SPEC)
    except ImageError:
        return
    assert picture.pixels.shape == (45, 30, 3)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        load_picture(data, SPEC)


def test_threads_get_the_same_pixels_as_one(scene: Image.Image, encode: Callable[..., bytes]) -> None:
    sources = [encode(scene.rotate(angle), kind) for angle in range(0, 360, 30) for kind in ("JPEG", "PNG", "WEBP")]
    alone = [load_picture(source, SPEC).pixels for source in sources]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda source: load_picture(source, SPEC).pixels, sources))

    np.testing.assert_array_equal(alone, together)


# --------------------------------------------------------------------------------------------------- statistics


def statistics_of(pixels: NDArray[np.uint8]) -> dict[str, float]:
    return image_statistics([Picture(pixels, width=200, height=300)])[0]


@pytest.mark.parametrize(
    ("colour", "brightness", "colourfulness"),
    [
        ((0, 0, 0), 0, 0),
        ((255, 255, 255), 1, 0),
        ((128, 128, 128), 128 / 255, 0),
        ((255, 0, 0), 0.299, 0.3 * np.hypot(255, 127.5)),
        ((0, 0, 255), 0.114, 0.3 * 255),
    ],
)
def test_statistics_of_one_colour(colour: tuple[int, int, int], brightness: float, colourfulness: float) -> None:
    statistics = statistics_of(np.full((45, 30, 3), colour, np.uint8))

    assert statistics["brightness"] == pytest.approx(brightness, abs=1e-5)
    assert statistics["colourfulness"] == pytest.approx(colourfulness, abs=1e-3)
    assert statistics["contrast"] == pytest.approx(0, abs=1e-6)
    assert statistics["sharpness"] == pytest.approx(0, abs=1e-9)
    assert (statistics["min"], statistics["max"]) == (min(colour), max(colour))
    assert statistics["mean"] == pytest.approx(sum(colour) / 3, abs=1e-3)
    assert statistics["std"] == pytest.approx(np.std(colour), abs=1e-3)
    assert (statistics["width"], statistics["height"], statistics["aspect"]) == (200, 300, 2 / 3)


def test_a_chequered_picture_is_sharp_and_full_of_contrast() -> None:
    chequered = (255 * (np.indices((44, 30)).sum(0) % 2)).astype(np.uint8)[..., None].repeat(3, 2)

    statistics = statistics_of(chequered)

    assert statistics["contrast"] == pytest.approx(0.5)
    assert statistics["std"] == pytest.approx(127.5)
    assert statistics["sharpness"] == pytest.approx(16)  # the Laplacian is +4 or -4 everywhere


def test_statistics_of_many_are_those_of_each() -> None:
    random = np.random.default_rng(0)
    pictures = [
        Picture(random.integers(0, high, (45, 30, 3), np.uint8), width, 300) for high, width in ((9, 100), (250, 200))
    ]
    for picture, found in zip(pictures, image_statistics(pictures), strict=True):
        assert found == pytest.approx(image_statistics([picture])[0], rel=1e-6)


def test_statistics_are_plain_numbers() -> None:
    random = np.random.default_rng(0).integers(0, 256, (45, 30, 3), np.uint8)

    assert all(type(value) is float and np.isfinite(value) for value in statistics_of(random).values())
