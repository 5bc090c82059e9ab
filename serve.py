"""Serve a trained detector over HTTP: `python serve.py --help`."""

import sys

from violence_detection.commands.serve import main
from violence_detection.runtime.interrupts import leave

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
