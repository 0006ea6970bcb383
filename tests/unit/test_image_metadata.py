"""What a file says beside its pixels neither spoils a good picture nor costs much; only its orientation counts."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from onesheet.errors import CorruptImageError, UnsupportedImageError
from onesheet.image import decode
from onesheet.image_metadata import without_metadata

MEGABYTES = bytes(2_000_000)
ORIENTATION_6 = b"MM\0*\0\0\0\x08" + bytes.fromhex("0001 0112 0003 00000001 00060000 00000000")
XMP_6 = b'<rdf:Description tiff:Orientation="6"/>'
PROFILE_6 = b"\nexif\n      34\n" + (b"Exif\0\0" + ORIENTATION_6).hex().encode()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def spoilt(part: bytes) -> bytes:
    """With a checksum that is wrong."""
    return part[:-1] + bytes([part[-1] ^ 1])


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) & 1)


def in_png(data: bytes, *chunks: bytes) -> bytes:
    """Before the pixels."""
    return data[:33] + b"".join(chunks) + data[33:]


def after_png(data: bytes, *chunks: bytes) -> bytes:
    """Behind the pixels."""
    return data[:-12] + b"".join(chunks) + data[-12:]


def in_jpeg(data: bytes, *segments: bytes) -> bytes:
    return data[:2] + b"".join(segments) + data[2:]


def in_webp(data: bytes, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """Around the pixels of an extended WebP."""
    assert data[12:16] == b"VP8X"
    body = data[8:20] + bytes([data[20] | 0b101100]) + data[21:30] + before + data[30:] + after
    return b"RIFF" + struct.pack("<I", len(body)) + body


HARMLESS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "compressed text": ("PNG", lambda png: in_png(png, png_chunk(b"zTXt", b"k\0\0" + zlib.compress(MEGABYTES)))),
    "compressed XMP": (
        "PNG",
        lambda png: in_png(png, png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(MEGABYTES))),
    ),
    "compressed EXIF": (
        "PNG",
        lambda png: in_png(png, png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(MEGABYTES))),
    ),
    "colour profile": ("PNG", lambda png: in_png(png, png_chunk(b"iCCP", b"k\0\0" + zlib.compress(MEGABYTES)))),
    "much text": (
        "PNG",
        lambda png: in_png(png, *[png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000)))] * 70),
    ),
    "text behind the pixels": (
        "PNG",
        lambda png: after_png(png, png_chunk(b"zTXt", b"k\0\0" + zlib.compress(MEGABYTES))),
    ),
    "text that is cut off": ("PNG", lambda png: after_png(png, png_chunk(b"tEXt", bytes(5000)))[:-4000]),
    "text with a wrong checksum": ("PNG", lambda png: in_png(png, spoilt(png_chunk(b"tEXt", b"k\0v")))),
    "EXIF with a wrong checksum": ("PNG", lambda png: in_png(png, spoilt(png_chunk(b"eXIf", ORIENTATION_6)))),
    "text of no known compression": ("PNG", lambda png: in_png(png, png_chunk(b"zTXt", b"k\0\7v"))),
    "text that is no deflate": (
        "PNG",
        lambda png: in_png(png, png_chunk(b"zTXt", b"Raw profile type exif\0\0zz"), png_chunk(b"iCCP", b"k\0\7v")),
    ),
    "short chunks": ("PNG", lambda png: in_png(png, *(png_chunk(kind, b"") for kind in (b"gAMA", b"cHRM", b"pHYs")))),
    "broken animation": ("PNG", lambda png: in_png(png, png_chunk(b"acTL", b""), png_chunk(b"fcTL", bytes(26)))),
    "no end": ("PNG", lambda png: png[:-12]),
    "bytes behind the end": ("PNG", lambda png: png + b"more"),
    "large segments": (
        "JPEG",
        lambda jpeg: in_jpeg(jpeg, *(segment(0xE0 + n % 16, bytes(65_000)) for n in range(64)), segment(0xFE, b"c")),
    ),
    "large EXIF": ("JPEG", lambda jpeg: in_jpeg(jpeg, *[segment(0xE1, b"Exif\0\0MM\0*" + bytes(65_000))] * 32)),
    "broken profile": ("JPEG", lambda jpeg: in_jpeg(jpeg, segment(0xE2, b"ICC_PROFILE\0"))),
    "broken JFIF": ("JPEG", lambda jpeg: in_jpeg(jpeg, segment(0xE0, b"JFIF\0"))),
    "broken mark of Adobe": ("JPEG", lambda jpeg: in_jpeg(jpeg, segment(0xEE, b"Adobe"))),
    "fill bytes": ("JPEG", lambda jpeg: in_jpeg(jpeg, b"\xff\xff\xff")),
    "broken Photoshop": ("JPEG", lambda jpeg: in_jpeg(jpeg, segment(0xED, b"Photoshop 3.0\0008BIM\4\4\0\0\0\0"))),
    "large XMP": ("WEBP", lambda webp: in_webp(webp, after=webp_chunk(b"XMP ", MEGABYTES))),
    "profile": ("WEBP", lambda webp: in_webp(webp, before=webp_chunk(b"ICCP", MEGABYTES))),
    "XMP that is cut off": ("WEBP", lambda webp: in_webp(webp, after=webp_chunk(b"XMP ", MEGABYTES))[:-1000]),
    "EXIF that is cut off": ("WEBP", lambda webp: webp[:-5]),
    "an unknown chunk": ("WEBP", lambda webp: in_webp(webp, after=webp_chunk(b"JUNK", b"odd"))),
    "more behind the end": ("WEBP", lambda webp: webp + b"more"),
}


@pytest.fixture
def plain(scene: Image.Image, encode: Callable[..., bytes]) -> Callable[[str], bytes]:
    """`plain(kind)`: the scene, with harmless EXIF where that makes an extended WebP."""
    return lambda kind: encode(
        scene, kind, **({"exif": b"Exif\0\0MM\0*\0\0\0\x08" + bytes(6)} if kind == "WEBP" else {})
    )


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_metadata_does_not_spoil_a_good_picture(plain: Callable[[str], bytes], name: str) -> None:
    kind, spoil = HARMLESS[name]
    data = plain(kind)

    image = decode(spoil(data))

    assert image.format == kind
    np.testing.assert_array_equal(image, decode(data))


def png_texts(kind: bytes, content: bytes) -> list[bytes]:
    keyword, text = content.split(b"\0", 1)
    if kind == b"tEXt":
        return [png_chunk(b"tEXt", content), png_chunk(b"zTXt", keyword + b"\0\0" + zlib.compress(text))]
    return [
        png_chunk(b"iTXt", keyword + b"\0" + how + text)
        for how, text in (
            (b"\0\0\0\0", text),
            (b"\1\0\0\0", zlib.compress(text)),
        )
    ]


@pytest.mark.parametrize(
    ("kind", "turn"),
    [
        ("PNG", lambda png: in_png(png, png_chunk(b"eXIf", ORIENTATION_6))),
        ("PNG", lambda png: after_png(png, png_chunk(b"eXIf", ORIENTATION_6))),
        *(
            ("PNG", lambda png, text=text: in_png(png, png_chunk(b"zTXt", b"k\0\0" + zlib.compress(MEGABYTES)), text))
            for text in (
                *png_texts(b"tEXt", b"Raw profile type exif\0" + PROFILE_6),
                *png_texts(b"iTXt", b"XML:com.adobe.xmp\0" + XMP_6),
            )
        ),
        ("JPEG", lambda jpeg: in_jpeg(jpeg, segment(0xE2, bytes(60_000)), segment(0xE1, b"Exif\0\0" + ORIENTATION_6))),
        ("JPEG", lambda jpeg: in_jpeg(jpeg, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP_6))),
        ("WEBP", lambda webp: in_webp(webp, before=webp_chunk(b"ICCP", MEGABYTES), after=webp_chunk(b"XMP ", XMP_6))),
    ],
)  # fmt: skip
def test_the_orientation_still_counts(plain: Callable[[str], bytes], kind: str, turn: Callable[[bytes], bytes]) -> None:
    data = plain(kind)

    image = decode(turn(data))

    assert image.info["original_size"] == (90, 60)
    np.testing.assert_array_equal(image, decode(data).transpose(Image.Transpose.ROTATE_270))


def test_a_picture_without_metadata_is_not_copied(scene: Image.Image, encode: Callable[..., bytes]) -> None:
    for kind in ("PNG", "GIF", "WEBP"):
        data = encode(scene, kind)
        assert without_metadata(data) is data


@pytest.mark.parametrize("cut", [40, 60, 100])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_missing_pixels_are_still_damage(plain: Callable[[str], bytes], kind: str, cut: int) -> None:
    with pytest.raises(CorruptImageError, match="truncated or damaged"):
        decode(plain(kind)[:-cut])


def test_a_broken_checksum_of_the_pixels_is_still_damage(scene: Image.Image, encode: Callable[..., bytes]) -> None:
    data = encode(scene, "PNG")

    with pytest.raises(CorruptImageError):
        decode(spoilt(data[:33]) + data[33:])


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (b"\xff\xc0\0\x11\x0c", "12 bits a sample"),
        (b"\xff\xc0\0\x0e\x08\0\x5a\0\x3c\x02\x01\x22\0\x02\x11\x01", "2 colour channels"),
    ],
)
def test_what_the_decoder_cannot_do_is_no_damage(encode: Callable[..., bytes], header: bytes, told: str) -> None:
    data = encode(Image.new("RGB", (60, 90)), "JPEG")
    start = data.index(b"\xff\xc0")
    end = start + (5 if header[4] == 12 else 19)

    with pytest.raises(UnsupportedImageError, match=told):
        decode(data[:start] + header + data[end:])


def test_a_flood_of_metadata_is_read_in_a_moment(plain: Callable[[str], bytes]) -> None:
    """A million pieces would keep the decoder busy for many seconds; it never sees them."""
    for kind, flooded in (
        ("PNG", in_png(plain("PNG"), *[png_chunk(b"tEXt", b"")] * 10_000)),
        ("JPEG", in_jpeg(plain("JPEG"), *[segment(0xFE, b"")] * 10_000)),
    ):
        assert len(without_metadata(flooded)) <= len(plain(kind))
        assert decode(flooded).size == (60, 90)


def test_the_file_is_read_where_it_is_given(scene: Image.Image) -> None:
    """A stream that Pillow opened elsewhere is not ours to change."""
    file = io.BytesIO()
    scene.save(file, "PNG")
    assert without_metadata(b"") == b""
    assert without_metadata(file.getvalue()[:8]) == file.getvalue()[:8]
