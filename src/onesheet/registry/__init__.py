"""Versions of a bundle, where they come from, which of them is the champion, and who made it so."""

from onesheet.registry.records import Lineage, Move, Version
from onesheet.registry.registry import Registry, load_registered, open_registry

__all__ = [
    "Lineage",
    "Move",
    "Registry",
    "Version",
    "load_registered",
    "open_registry",
]
