"""What was asked and answered, durably: SQLite by default, PostgreSQL by URL."""

from onesheet.predictionlog.records import Feedback, LoggedPrediction
from onesheet.predictionlog.store import PredictionLog
from onesheet.predictionlog.writer import GroupWriter

__all__ = ["Feedback", "GroupWriter", "LoggedPrediction", "PredictionLog"]
