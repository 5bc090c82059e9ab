"""Files that survive a kill, locks, and object stores."""
