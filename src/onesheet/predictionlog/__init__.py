"""What was asked and answered, durably: SQLite by default, PostgreSQL by URL."""

from onesheet.predictionlog.activity import Activity, summarize
from onesheet.predictionlog.drift_runs import DriftRun, DriftRuns
from onesheet.predictionlog.pictures import PictureFolder, open_pictures
from onesheet.predictionlog.records import Feedback, LoggedPrediction
from onesheet.predictionlog.store import PredictionLog
from onesheet.predictionlog.writer import GroupWriter

__all__ = [
    "Activity",
    "DriftRun",
    "DriftRuns",
    "Feedback",
    "GroupWriter",
    "LoggedPrediction",
    "PictureFolder",
    "PredictionLog",
    "open_pictures",
    "summarize",
]
