"""What is known of a bundle's making, gathered from where it was made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml

from onesheet.acceptance import accept_bundle
from onesheet.bundle import METADATA_FILE, Bundle, load_bundle
from onesheet.data.manifest import MANIFEST_FILE, read_manifest
from onesheet.errors import DataError
from onesheet.registry.records import BUNDLE_FOLDER, LINEAGE_FOLDER, MANIFEST, Lineage
from onesheet.registry.registry import digest_of
from onesheet.training.record import CONFIG_FILE, RECORD_FILE, read_record

_METRICS: Final = ("map_macro", "auroc_macro", "f1_macro", "f1_micro", "f1_samples", "ece", "hamming_loss")


@dataclass(frozen=True, slots=True)
class Submission:
    """A bundle on its way into the registry.

    Attributes:
        folder: Of `bundle/` and `lineage/`.
        lineage: Where it comes from.
        notes: What a reader should know of what is missing.
    """

    folder: Path
    lineage: Lineage
    notes: tuple[str, ...]


@contextmanager
def submission(ref: str, run_dir: Path | None, processed: Path, raw: Path) -> Iterator[Submission]:
    """Gather a bundle, the record of its run and the manifest that it was trained on, in a folder for a while.

    Args:
        ref: Of the bundle.
        run_dir: Folder of the training run; None: it is not known.
        processed: Folder of the manifest; taken if it is the one that the bundle was trained on.
        raw: Folder of the raw posters; `<raw>.dvc` beside it names their version.

    Raises:
        BundleError: It cannot be read, or does not work.
        TrainingError: The folder holds no run.
    """
    bundle = load_bundle(ref)
    accept_bundle(bundle)
    with TemporaryDirectory(prefix="onesheet-") as scratch:
        folder = Path(scratch)
        _write_bundle(bundle, folder / BUNDLE_FOLDER)
        about = folder / LINEAGE_FOLDER
        about.mkdir()
        run = _keep_run(run_dir, about) if run_dir else None
        notes = () if run_dir else ("the run that it comes from is not named (--run DIR)",)
        problem = _keep_manifest(bundle, processed, raw, about / MANIFEST)
        data_version = None if problem else _data_version(raw)
        lineage = _lineage(bundle, folder / BUNDLE_FOLDER, run, data_version)
        yield Submission(folder, lineage, notes if problem is None else (*notes, problem))


def _write_bundle(bundle: Bundle, folder: Path) -> None:
    folder.mkdir()
    for name, content in bundle.files.items():
        (folder / name).write_bytes(content)
    (folder / METADATA_FILE).write_text(bundle.metadata.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _keep_run(run_dir: Path, about: Path) -> str:
    """Copy what a run says of itself.

    Returns:
        What the tracking store calls it, or its folder's name.
    """
    record = read_record(run_dir)
    for name in (RECORD_FILE, CONFIG_FILE):
        if (run_dir / name).is_file():
            shutil.copyfile(run_dir / name, about / name)
    stores = [f"{store}:{name}" for store, name in sorted(record.loggers.items())]
    return ", ".join(stores) or run_dir.name


def _keep_manifest(bundle: Bundle, processed: Path, raw: Path, copy: Path) -> str | None:
    """Copy the manifest if the bundle was trained on it.

    Returns:
        Why it was not.
    """
    advice = "without, nobody can tell later which posters it has seen"
    try:
        manifest = read_manifest(processed / MANIFEST_FILE, raw)
    except DataError:
        return f"{processed} holds no manifest; {advice}"
    if manifest.fingerprint != bundle.metadata.data.fingerprint:
        return f"the manifest in {processed} is another one than the bundle was trained on; {advice}"
    shutil.copyfile(processed / MANIFEST_FILE, copy)
    return None


def _data_version(raw: Path) -> str | None:
    """DVC's hash of the raw posters, from the file that `dvc add` writes beside them."""
    try:
        outs: list[dict[str, Any]] = yaml.safe_load(raw.with_name(f"{raw.name}.dvc").read_text(encoding="utf-8"))[
            "outs"
        ]
        return str(outs[0]["md5"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError):
        return None


def _lineage(bundle: Bundle, folder: Path, run: str | None, data_version: str | None) -> Lineage:
    metadata = bundle.metadata
    test = metadata.metrics.get("test", {})
    return Lineage(
        model_name=metadata.name,
        model_version=metadata.version,
        digest=digest_of(folder),
        created=metadata.created,
        architecture=metadata.architecture,
        bytes=sum(len(content) for content in bundle.files.values()),
        git_commit=metadata.git_commit,
        fingerprint=metadata.data.fingerprint,
        data_version=data_version,
        run=run,
        metrics={name: test[name] for name in _METRICS if isinstance(test.get(name), float)},
    )
