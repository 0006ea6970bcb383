"""Whether production still looks like what a model was judged on."""

from onesheet.monitoring.drift.run import find_drift

__all__ = ["find_drift"]
