"""A trained detector on clips, long videos and live sources."""
