"""The feature cache, on a disk and in object stores."""
