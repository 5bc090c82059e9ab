"""Numbers with their nouns, and times, for log lines, messages and plots."""

COLUMNS = 80  # of a terminal


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1: "1 clip", "2,000 clips"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def timestamp(seconds: float) -> str:
    """Return a time in a video as `0:01:02.3`."""
    tenths = round(10 * seconds)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}.{tenths % 10}"
