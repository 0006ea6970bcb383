"""What was asked and answered, durably: SQLite by default, PostgreSQL by URL."""

from onesheet.predictionlog.activity import Activity, summarize
from onesheet.predictionlog.records import Feedback, LoggedPrediction
from onesheet.predictionlog.store import PredictionLog
from onesheet.predictionlog.writer import GroupWriter

__all__ = ["Activity", "Feedback", "GroupWriter", "LoggedPrediction", "PredictionLog", "summarize"]
