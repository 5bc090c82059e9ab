"""The checkpoint directory of a run."""
