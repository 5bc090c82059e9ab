"""Hardware that stands still until a test changes it."""

from collections.abc import Callable, Iterator

import pytest

from tests.runtime.nvml import Clock
from violence_detection.runtime.logs import package_log


@pytest.fixture
def clock() -> Clock:
    """Return a clock that a test moves."""
    return Clock()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Return a function that returns the warnings so far; a run's log need not reach pytest."""
    package_log.addHandler(caplog.handler)

    def so_far() -> list[str]:
        found = {id(r): r.getMessage() for r in caplog.records if r.levelname == "WARNING"}
        return list(found.values())

    yield so_far
    package_log.removeHandler(caplog.handler)
