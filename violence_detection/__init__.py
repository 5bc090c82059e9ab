"""Train, test and use a detector of violence in video clips."""

__version__ = "0.1.0"
