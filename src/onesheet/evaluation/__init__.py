"""How good a model is: metrics, floors, calibration, thresholds."""
