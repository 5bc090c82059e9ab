"""VGG19 features: computed once per clip, cached, checked."""
