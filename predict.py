"""Predict with a trained detector: `python predict.py --help`."""

import sys

from violence_detection.commands.predict import main
from violence_detection.runtime.interrupts import leave

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
