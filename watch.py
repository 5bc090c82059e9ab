"""Watch cameras: `python watch.py --help`."""

import sys

from violence_detection.commands.watch import main
from violence_detection.runtime.interrupts import leave

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
