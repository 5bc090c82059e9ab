"""A trained detector over HTTP."""
