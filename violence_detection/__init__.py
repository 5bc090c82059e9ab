"""Train, test and use a detector of violence in video clips."""
