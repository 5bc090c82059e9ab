"""Export a trained detector: `python export.py --help`."""

import sys

from violence_detection.runtime.environment import require_environment

if __name__ == "__main__":
    require_environment()  # what follows loads or looks for libraries

from violence_detection.commands.export import main
from violence_detection.runtime.interrupts import leave

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
