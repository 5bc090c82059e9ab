import logging

import pytest

from violence_detection.runtime.xla import compiles_passes, log_xla


@pytest.mark.parametrize(
    ("xla", "device_type", "compiled"),
    [
        (False, "CPU", False),
        (True, "CPU", False),
        ("all", "CPU", True),
        (False, "GPU", False),
        (True, "GPU", True),
        ("all", "GPU", True),
    ],
)
def test_passes_are_compiled_where_that_is_faster_or_asked_for(
    xla: bool | str, device_type: str, compiled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What is left out although XLA was asked for is named."""
    assert compiles_passes(xla, device_type) is compiled
    with caplog.at_level(logging.INFO):
        log_xla(xla, device_type)
    assert ("Left out" in caplog.text) == (bool(xla) and not compiled)
