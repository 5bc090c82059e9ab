"""The machine that a run is on: workers, devices, progress, logs."""
