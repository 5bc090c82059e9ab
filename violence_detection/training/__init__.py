"""From features to a trained classifier."""
