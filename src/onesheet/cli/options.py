"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

BundleOption = Annotated[
    str | None,
    typer.Option(
        metavar="REF",
        help="A folder, a .tar.gz, `starter`, `champion` or a gs:// address. (default: ONESHEET_BUNDLE or starter)",
    ),
]
PrecisionOption = Annotated[
    Literal["fp32", "int8"] | None,
    typer.Option(help="Graph of the bundle that answers. (default: ONESHEET_PRECISION or fp32)"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on standard output.")]
ConfigDirOption = Annotated[Path | None, typer.Option(help="Folder with config.yaml. (default: the shipped one)")]
RawOption = Annotated[Path, typer.Option(help="Folder with train.csv and Images/.")]
ProcessedOption = Annotated[Path, typer.Option(help="Folder of the manifest.")]

RAW: Final = Path("data/raw")
PROCESSED: Final = Path("data/processed")
