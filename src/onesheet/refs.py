"""The words among the REFs of bundles; everything else is a path or an address."""

from __future__ import annotations

from typing import Final

STARTER: Final = "starter"
CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
REGISTRY_PREFIX: Final = "registry:"


def is_registered(ref: str) -> bool:
    """Whether a REF means a version in the registry: `champion`, `challenger`, `registry:` and a number or alias."""
    return ref in (CHAMPION, CHALLENGER) or ref.startswith(REGISTRY_PREFIX)
