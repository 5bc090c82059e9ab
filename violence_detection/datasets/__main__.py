"""`python -m violence_detection.datasets`, the same as `violence-detection dataset`."""

import sys

from violence_detection.runtime.environment import require_environment

if __name__ == "__main__":
    require_environment()  # what follows loads libraries

from violence_detection.datasets.command import main
from violence_detection.runtime.interrupts import leave

if __name__ == "__main__":
    sys.argv[0] = "python -m violence_detection.datasets"
    leave(main())
