"""Where the shipped configuration lies."""

from __future__ import annotations

from pathlib import Path


def default_config_dir() -> Path:
    """Inside the package, or in the checkout that it runs from."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"
