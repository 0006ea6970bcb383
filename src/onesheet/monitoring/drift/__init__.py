"""Whether production still looks like what a model was judged on."""

from onesheet.monitoring.drift.run import find_drift
from onesheet.monitoring.drift.webhook import tell_of_drift

__all__ = ["find_drift", "tell_of_drift"]
