"""`python -m violence_detection.datasets`, the same as `violence-detection dataset`."""

from violence_detection.datasets.command import main
from violence_detection.runtime.interrupts import leave

if __name__ == "__main__":
    leave(main())
