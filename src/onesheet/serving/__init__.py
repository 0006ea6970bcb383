"""The HTTP API: `create_app` builds it, `serve` runs it."""

from onesheet.serving.app import create_app
from onesheet.serving.server import serve

__all__ = ["create_app", "serve"]
