"""Write a run's report, or compare runs: `python report.py --help`."""

import sys

from violence_detection.commands.report import main
from violence_detection.runtime.interrupts import leave

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
