"""The two networks: VGG19 and the classifier."""
