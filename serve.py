"""Serve a trained detector over HTTP: `python serve.py --help`."""

import sys

from violence_detection.runtime.environment import require_environment

if __name__ == "__main__":
    require_environment()  # what follows loads or looks for libraries

from violence_detection.commands.serve import main
from violence_detection.runtime.interrupts import leave

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
