"""Many cameras watched at once: settings, alarms, recordings, events."""
