"""A trained detector in other formats."""
