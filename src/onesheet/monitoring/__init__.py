"""Watching the service and the model."""
