"""Metrics, calibration and comparison of predictions."""
