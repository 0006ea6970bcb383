"""Whether a bundle works: its graphs on varied pictures, alone and together, and the reference that goes with them."""

from __future__ import annotations

import atexit
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from onesheet.bundle import INT8_FILE, REFERENCE_FILE, Bundle
from onesheet.errors import BundleCorruptError, ModelError, reason
from onesheet.image import load_picture
from onesheet.predictor import Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.bundle import Precision
    from onesheet.image import PreprocessSpec

# Many times what the slowest machine takes; a graph with a loop may never end.
_SECONDS: Final = 60.0
_POSTER: Final = (300, 444)
_PARQUET: Final = b"PAR1"


def accept_bundle(bundle: Bundle) -> None:
    """Check all graphs of a bundle, and its reference.

    Raises:
        BundleCorruptError: As `accept` does.
    """
    precisions: tuple[Precision, ...] = ("fp32", "int8") if INT8_FILE in bundle.files else ("fp32",)
    for precision in precisions:
        accept(Predictor(bundle, precision=precision))


def accept(predictor: Predictor) -> None:
    """Check that a predictor answers, which also warms it up, and that its reference can be read.

    It is given a black and a white picture, a gradient, noise, and a JPEG of a poster's size; each alone, then all at
    once. Without pyarrow, of the reference only its ends are looked at.

    Raises:
        BundleCorruptError: It fails or says what makes no sense, or its reference is none; the message names the file.
    """
    pictures = _pictures(predictor.metadata.preprocess)
    with _limited(predictor) as has_ended:
        for name, pixels in {**pictures, "all of them": np.concatenate(list(pictures.values()))}.items():
            try:
                _, embedding = predictor.run(pixels)
            except ModelError as error:
                why = f"no answer within {_SECONDS:g} s" if has_ended.is_set() else _explain(error)
                raise BundleCorruptError(f"{predictor.file} fails on test pictures ({name}): {why}") from error
    _check_reference(predictor, embedding.shape[1])


def _pictures(spec: PreprocessSpec) -> dict[str, NDArray[np.uint8]]:
    """uint8 `[1, H, W, 3]` by name."""
    random = np.random.default_rng(0)
    shape = (1, spec.height, spec.width, 3)
    encoded = io.BytesIO()
    coarse = Image.fromarray(random.integers(0, 256, (12, 8, 3), np.uint8))
    coarse.resize(_POSTER, Image.Resampling.BICUBIC).save(encoded, "JPEG")
    ramp = np.linspace(0, 255, spec.height).astype(np.uint8)
    return {
        "black": np.zeros(shape, np.uint8),
        "white": np.full(shape, 255, np.uint8),
        "gradient": np.broadcast_to(ramp[:, None, None], shape).copy(),
        "noise": random.integers(0, 256, shape, np.uint8),
        "JPEG": load_picture(encoded.getvalue(), spec).pixels[None],
    }


@contextmanager
def _limited(predictor: Predictor) -> Iterator[threading.Event]:
    """Stop a predictor when its time is up, which sets the event, or when the process ends."""
    is_up = threading.Event()

    def stop() -> None:
        is_up.set()
        predictor.stop()

    timer = threading.Timer(_SECONDS, stop)
    timer.daemon = True
    timer.start()
    atexit.register(predictor.stop)
    try:
        yield is_up
    finally:
        timer.cancel()
        atexit.unregister(predictor.stop)


def _explain(error: ModelError) -> str:
    return reason(error.__cause__) if error.__cause__ else error.message


def _check_reference(predictor: Predictor, embedding_size: int) -> None:
    reference = predictor.reference
    footer = int.from_bytes(reference[-8:-4], "little")
    ends_well = reference[:4] == reference[-4:] == _PARQUET and 0 < footer <= len(reference) - 12
    if not ends_well:
        raise BundleCorruptError(f"{REFERENCE_FILE} is no Parquet file; it has {len(reference)} bytes")
    try:
        import pyarrow as pa

        from onesheet.parquet import read_table
    except ImportError:  # the base installation has no use for it
        return
    try:
        table = read_table(reference)
        for name, size in {"probabilities": len(predictor.genres), "embedding": embedding_size}.items():
            values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            if not table.num_rows or len(values) != table.num_rows * size or not np.isfinite(values).all():
                raise BundleCorruptError(f"{REFERENCE_FILE} does not hold {size} numbers of `{name}` for each poster")
        if not {"id", "genres"} <= set(table.column_names):
            raise BundleCorruptError(f"{REFERENCE_FILE} lacks a column `id` or `genres`")
    except (pa.ArrowException, KeyError, AttributeError, TypeError, OSError) as error:
        raise BundleCorruptError(f"{REFERENCE_FILE} cannot be read: {reason(error)}") from error
