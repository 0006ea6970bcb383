"""What a catalogue says of itself, under one key of its Parquet metadata: its format, its bundle, and its genres."""

from __future__ import annotations

from typing import Final

from onesheet.bundle import MODEL_FILE, Bundle

METADATA_KEY: Final = b"onesheet"
FORMAT: Final = 1


def bundle_identity(bundle: Bundle) -> dict[str, str]:
    """What tells a bundle from any other: `name`, `version`, and the `sha256` of its graph.

    The graph is what embeddings come from: the same weights with another model card or other thresholds still speak
    of the same space. `load_bundle` has verified the hash, so it is not computed again.
    """
    metadata = bundle.metadata
    return {"name": metadata.name, "version": metadata.version, "sha256": metadata.files[MODEL_FILE]}
