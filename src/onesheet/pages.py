"""Pages made from a template, and files that are there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(package: str, filters: Mapping[str, Callable[..., Any]], values: Mapping[str, Any]) -> str:
    """The template `report.html.j2` of a package; values come from files of others, so everything is escaped.

    Args:
        package: Its name.
        filters: Of the template.
        values: Of the template.
    """
    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template("report.html.j2").render(values)


def write_whole(path: Path, text: str) -> None:
    """Write a text; whoever reads it meanwhile has the one before.

    Raises:
        OSError: It cannot be written.
    """
    scratch = path.with_name(f".{path.name}.partial")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
