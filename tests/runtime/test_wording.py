import pytest

from violence_detection.runtime.wording import timestamp


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00.0"), (59.96, "0:01:00.0"), (3723.4, "1:02:03.4"), (36000, "10:00:00.0")],
)
def test_timestamps(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text
