import platform

import numpy as np

from violence_detection.runs.versions import versions


def test_versions_are_those_of_the_installed_packages() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == np.__version__
