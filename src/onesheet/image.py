"""Untrusted bytes to RGB pixels, safely and always the same way.

Training and serving both come through `load_picture`: one decoder, one orientation rule, one resize kernel. What may
be read is decided by content, never by file name, and before any pixel is decoded.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from PIL import ExifTags, Image

from onesheet.errors import (
    CorruptImageError,
    EmptyImageError,
    ImageNotFoundError,
    ImageShapeError,
    ImageTooLargeError,
    NotAFileError,
    NotAnImageError,
    UnreadableFileError,
    UnsupportedImageError,
)
from onesheet.image_metadata import without_metadata

if TYPE_CHECKING:
    from numpy.typing import NDArray

ImageSource: TypeAlias = "bytes | str | os.PathLike[str] | Image.Image | NDArray[np.uint8]"

READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif")
"""Of the names of files in these formats, in lower case; which of the formats a file has, its content tells."""

# What Pillow's decoders raise on damaged or hostile bytes; its warnings too, where warnings are errors.
_DECODER_FAILURES = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    struct.error,
    zlib.error,
    Warning,
)

# Pillow refuses more, whatever the limits are.
_DECODER_MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)

# How the readable formats start (and WebP, which says so at its ninth byte).
_READABLE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")

# Formats that people do send; naming them is kinder than "not an image".
_FOREIGN_SIGNATURES = (
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"BM", "BMP"),
    (0, b"%PDF", "PDF"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
)
_SVG_STARTS = (b"<svg", b"<?xml", b"<!DOCTYPE svg", b"<!--")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is accepted as a poster.

    Attributes:
        max_bytes: Largest encoded size, in bytes.
        max_pixels: Largest width x height; read from the header, before decoding.
        min_side: Shortest side, in pixels.
        max_aspect: Longest side over shortest side.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 25_000_000
    min_side: int = 16
    max_aspect: float = 8.0


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """How a picture becomes the input of a network; travels with the weights in `bundle.json`.

    Attributes:
        height: Rows of the network's input, in pixels.
        width: Columns of the network's input, in pixels.
        fit: `stretch`: the whole poster is squeezed into height x width.
        interpolation: Pillow's antialiased resampling kernel.
        reducing_gap: The picture may first be shrunk by cheap whole factors to no less than this many times the
            target size (a JPEG while it is decoded, others by box averaging).
    """

    height: int
    width: int
    fit: Literal["stretch"] = "stretch"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    reducing_gap: float = 2.0


_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# What undoes each EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8])


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture ready for the network.

    Attributes:
        pixels: uint8 `[height, width, 3]`, RGB, of the size the `PreprocessSpec` asks for.
        width: Width of the original as a viewer shows it, in pixels.
        height: Height of the original as a viewer shows it, in pixels.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int


def load_picture(source: ImageSource, spec: PreprocessSpec, limits: ImageLimits = DEFAULT_LIMITS) -> Picture:
    """Turn a picture of any accepted kind into the network's input.

    Args:
        source: Encoded bytes, a path, a Pillow image, or a uint8 array `[H, W, 3]` or `[H, W]`.
        spec: The size and kernel to resize with.
        limits: What is accepted.

    Raises:
        ImageError: The picture cannot be read; its subclass says why.
    """
    if isinstance(source, (Image.Image, np.ndarray)):
        image = _from_array(source) if isinstance(source, np.ndarray) else source
        _check_dimensions(image, limits)
        image = _load_upright(image)
        width, height = image.size
    else:
        data = source if isinstance(source, bytes) else read_bytes(Path(source), limits)
        gap = spec.reducing_gap
        image = decode(data, limits, at_least=(round(spec.width * gap), round(spec.height * gap)))
        width, height = image.info["original_size"]
    resized = to_rgb(image).resize(
        (spec.width, spec.height), _RESAMPLING[spec.interpolation], reducing_gap=spec.reducing_gap
    )
    return Picture(np.asarray(resized), width, height)


def read_bytes(path: Path, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """Read an encoded picture from disk; never more than `limits.max_bytes`.

    Raises:
        ImageNotFoundError, NotAFileError, UnreadableFileError, ImageTooLargeError: As their names say.
    """
    try:
        # Asked before opening: to open a pipe would wait for its writer.
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "folder" if stat.S_ISDIR(mode) else "special file"
            raise NotAFileError(f"is a {kind}; name a picture file")
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except FileNotFoundError as error:
        raise ImageNotFoundError("no such file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "invalid name"
        raise UnreadableFileError(f"cannot be read: {reason}") from error
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(f"the file is larger than {limits.max_bytes / 2**20:.3g} MiB")
    return data


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode untrusted bytes to an upright Pillow image (first frame, in its own colour mode).

    Args:
        data: Encoded JPEG, PNG, WebP or GIF.
        limits: What is accepted; pixel count and shape are checked on the header, before decoding.
        at_least: `(width, height)` that suffices: a JPEG may be decoded smaller, but no smaller than this.

    Returns:
        The image; `info["original_size"]` is its upright `(width, height)` before any reduction.

    Raises:
        EmptyImageError, NotAnImageError, UnsupportedImageError, CorruptImageError, ImageTooLargeError,
        ImageShapeError: As their names say.
    """
    if not data:
        raise EmptyImageError("the file is empty")
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(f"the file is larger than {limits.max_bytes / 2**20:.3g} MiB")
    image = _open(data, limits)
    _check_dimensions(image, limits)
    original_size = image.size
    if at_least is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, at_least[::-1] if _turn(image) in _SIDEWAYS else at_least)
    upright = _load_upright(image)
    upright.info["original_size"] = original_size[::-1] if _turn(image) in _SIDEWAYS else original_size
    return upright


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    """Read the header only."""
    try:
        return Image.open(io.BytesIO(without_metadata(data)), formats=READABLE_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(_too_many_pixels(min(limits.max_pixels, _DECODER_MAX_PIXELS))) from error
    except _DECODER_FAILURES as error:
        if data.startswith(_READABLE_SIGNATURES) or data[8:12] == b"WEBP":
            raise CorruptImageError("the image is truncated or damaged") from error
        name = _foreign_format(data[:4096])
        if name:
            raise UnsupportedImageError(
                f"{name} is not supported; convert the picture to JPEG, PNG, WebP or GIF"
            ) from error
        raise NotAnImageError("the file is not a JPEG, PNG, WebP or GIF picture") from error


def _foreign_format(head: bytes) -> str | None:
    if b"<svg" in head and head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_SVG_STARTS):
        return "SVG"
    return next((name for at, signature, name in _FOREIGN_SIGNATURES if head.startswith(signature, at)), None)


def _check_dimensions(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(f"{width}x{height} pixels: {_too_many_pixels(limits.max_pixels)}")
    if min(width, height) < limits.min_side:
        raise ImageShapeError(f"{width}x{height} pixels: a poster has at least {limits.min_side} a side")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ImageShapeError(
            f"{width}x{height} pixels: a poster's long side is at most {limits.max_aspect:g} times its short one"
        )


def _too_many_pixels(max_pixels: int) -> str:
    return f"at most {max_pixels / 1e6:g} megapixels are read"


def _load_upright(image: Image.Image) -> Image.Image:
    """Decode the pixels and apply the EXIF orientation, as every viewer does."""
    try:
        image.load()
        turn = _turn(image)
        if turn is None:
            return image
        upright = image.transpose(turn)
    except _DECODER_FAILURES as error:
        raise CorruptImageError("the image is truncated or damaged") from error
    # Without the metadata, which would turn it a second time.
    upright.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return upright


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How the EXIF orientation asks the picture to be turned; metadata that cannot be read asks nothing."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DECODER_FAILURES:
        return None


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise NotAnImageError(f"an array must be uint8 [H, W, 3] or [H, W], not {array.dtype} {list(array.shape)}")
    if not array.size:
        raise EmptyImageError("the array is empty")
    return Image.fromarray(array)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any colour mode to RGB; what is transparent shows white, as on a page."""
    if image.mode.startswith("I"):  # 16 bits a sample; convert() would clip instead of scale
        samples = np.asarray(image)
        is_hole = samples == image.info.get("transparency", -1)
        return Image.fromarray(np.where(is_hole, 255, samples >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(page, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
