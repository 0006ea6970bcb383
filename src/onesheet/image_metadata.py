"""Encoded pictures without the metadata that decoding does not need.

Pillow reads all metadata before the pixels: it refuses intact pictures whose text or colour profile is large or broken,
and takes seconds for a flood of small pieces. What stays is what the pixels need, and where the orientation is said.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from onesheet.errors import UnsupportedImageError

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8"
_MAX_TEXT: Final = 2**20
_ORIENTATION_TEXTS: Final = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_EXIF: Final = b"Exif\0\0"
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"
_GREY, _RGB = 0, 2  # colour types of PNG
_FRAME_HEADERS: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xDA)})  # markers of JPEG without a length
_SCAN: Final = 0xDA
_COMMENT: Final = 0xFE


def without_metadata(data: bytes) -> bytes:
    """Leave out the metadata of a JPEG, PNG or WebP, broken or not; other bytes stay as they are.

    Where the file breaks the rules of its format, the rest is left for the decoder to judge.

    Raises:
        UnsupportedImageError: It is a JPEG of a kind that cannot be decoded.
    """
    if data.startswith(_PNG):
        return _joined(data, _png_parts(data))
    if data.startswith(_JPEG):
        return _joined(data, _jpeg_parts(data))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        body = _joined(data[12:], _webp_parts(data[12:]))
        return data if len(body) == len(data) - 12 else b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    return data


def _joined(data: bytes, parts: Iterator[bytes]) -> bytes:
    kept = b"".join(parts)
    return data if kept == data else kept


def _png_parts(data: bytes) -> Iterator[bytes]:
    """The chunks that are needed. An animation is left out too: its first frame is the picture itself."""
    yield _PNG
    at = len(_PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + length + 12
        chunk = data[at:end]
        is_critical = not kind[0] & 0x20
        if not kind.isalpha() or (is_critical and end > len(data)):
            break
        if kind == b"tRNS":
            yield _scaled_transparency(data, chunk)
        elif is_critical or _tells_orientation(kind, chunk):
            yield chunk
        at = end
        if kind == b"IEND":
            return
    yield data[at:]


def _scaled_transparency(data: bytes, chunk: bytes) -> bytes:
    """The transparent colour as Pillow's samples are, which have 8 bits; but of 16 bits of grey it keeps all."""
    if len(data) < 33:
        return chunk
    depth, colour, size = data[24], data[25], len(chunk) - 12
    if colour not in (_GREY, _RGB) or size != (2 if colour == _GREY else 6) or zlib.crc32(chunk[4:-4]) != _crc(chunk):
        return chunk
    values = [value % 2**depth for value in struct.unpack_from(f">{size // 2}H", chunk, 8)]
    if depth == 16 and colour == _RGB:
        values = [value >> 8 for value in values]
    elif 1 < depth < 8:
        values = [value * 255 // (2**depth - 1) for value in values]
    content = b"tRNS" + struct.pack(f">{len(values)}H", *values)
    return chunk[:4] + content + struct.pack(">I", zlib.crc32(content))


def _tells_orientation(kind: bytes, chunk: bytes) -> bool:
    """Whether a chunk beside the pixels holds EXIF or XMP, is whole, and costs little to read."""
    content = chunk[8:-4]
    is_text = kind in (b"tEXt", b"zTXt", b"iTXt") and content.startswith(_ORIENTATION_TEXTS)
    if not (kind == b"eXIf" or is_text) or len(content) > _MAX_TEXT or zlib.crc32(chunk[4:-4]) != _crc(chunk):
        return False
    rest = content.partition(b"\0")[2]
    if kind == b"zTXt":
        return rest[:1] == b"\0" and _inflates(rest[1:])
    if kind == b"iTXt" and rest[:1] == b"\1":
        *_, text = rest[2:].split(b"\0", 2)
        return _inflates(text)
    return True


def _inflates(text: bytes) -> bool:
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(text, _MAX_TEXT)
    except zlib.error:
        return False
    return inflate.eof


def _crc(chunk: bytes) -> int:
    return int.from_bytes(chunk[-4:], "big")


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """The segments that are needed up to the first scan, and all that follows."""
    yield _JPEG
    at, told = len(_JPEG), set[bytes]()
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # to fill up
            at += 1
            continue
        if marker in _ALONE or marker == _SCAN or marker == 0:
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at:end]
        if marker in _FRAME_HEADERS:
            _check_frame(segment)
        if not (0xE0 <= marker <= 0xEF or marker == _COMMENT) or _is_needed(marker, segment[4:], told):
            yield segment
        at = end
    yield data[at:]


def _is_needed(marker: int, content: bytes, told: set[bytes]) -> bool:
    """Whether a segment says how colours are stored, or the orientation for the first time."""
    if marker == 0xE0:
        return content.startswith(b"JFIF\0") and len(content) >= 14
    if marker == 0xEE:
        return content.startswith(b"Adobe") and len(content) >= 12
    for name in (_EXIF, _XMP):
        if marker == 0xE1 and content.startswith(name) and name not in told:
            told.add(name)
            return True
    return False


def _check_frame(segment: bytes) -> None:
    if len(segment) > 4 and segment[4] != 8:
        raise UnsupportedImageError(f"JPEG with {segment[4]} bits a sample is not supported; save it with 8")
    if len(segment) > 9 and segment[9] not in (1, 3, 4):
        raise UnsupportedImageError(f"JPEG with {segment[9]} colour channels is not supported; save it as RGB")


def _webp_parts(body: bytes) -> Iterator[bytes]:
    """The chunks behind the header that are needed; of EXIF and XMP those that are whole."""
    at = 0
    while at + 8 <= len(body):
        kind, length = struct.unpack_from("<4sI", body, at)
        end = at + 8 + length + length % 2
        if kind != b"ICCP" and (kind not in (b"EXIF", b"XMP ") or end <= len(body)):
            yield body[at:end]
        at = end
    yield body[at:]
