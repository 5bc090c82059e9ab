"""Experiments instead of a run: cross-validation, range test, search, grid."""
