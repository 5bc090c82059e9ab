"""Manifests from data sets of the field, annotation tools and long videos with annotated times."""
