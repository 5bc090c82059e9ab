"""Measurements that the README quotes; each is run as a module."""
