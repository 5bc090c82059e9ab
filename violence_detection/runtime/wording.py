"""Numbers with their nouns, for log lines and messages."""

COLUMNS = 80  # of a terminal


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1: "1 clip", "2,000 clips"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
