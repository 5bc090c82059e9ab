import os

import pytest

from violence_detection.runtime.tensorflow_log import quiet_tensorflow

LEVEL = "TF_CPP_MIN_LOG_LEVEL"


@pytest.mark.parametrize(("errors_too", "level"), [(False, "2"), (True, "3")])
def test_level_that_the_user_has_set_is_kept(
    errors_too: bool, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEVEL, "0")
    quiet_tensorflow(errors_too=errors_too)
    assert os.environ[LEVEL] == "0"
    monkeypatch.delenv(LEVEL)
    quiet_tensorflow(errors_too=errors_too)
    assert os.environ[LEVEL] == level
