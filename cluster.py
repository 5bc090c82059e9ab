"""The workers of a run: which one this process is, and how many there are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Worker:
    """This process among those of a run."""

    number: int = 0  # 0 is the chief, which writes what the run leaves
    count: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.number == 0
