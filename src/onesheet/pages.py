"""Pages made from a template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
