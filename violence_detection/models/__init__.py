"""The networks: VGG19 and the classifier on its features."""

RANDOM_WEIGHTS_WARNING = "VGG19 HAS RANDOM WEIGHTS: predictions mean nothing, for trials only"
