import keras

from violence_detection.models.classifier import classifier
from violence_detection.models.summary import (
    describe_networks,
    extractor_memory,
    training_memory,
)
from violence_detection.models.vgg19 import vgg19
from violence_detection.settings.schema import Settings


def test_networks_are_described_with_shapes_parameters_and_memory() -> None:
    text = describe_networks(Settings().replace(feature_layer="block3_pool", streams=("rgb",)))
    assert "block3_conv4" in text and "block4" not in text
    assert f"{vgg19('block3_pool').count_params():,}" in text
    assert "16 x 256" in text  # one stream of 256 values
    for stage in ("VGG19, float32", "VGG19, float16", "training, float32", "training, float16"):
        assert stage in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_memory_is_that_of_what_is_kept() -> None:
    extractor = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    memory = extractor_memory(extractor, frames=10, size=2)
    assert memory.weights == 2 * (4 * 6 + 6 + 6 * 2 + 2)
    assert memory.activations == 2 * 10 * (6 + 2)


def test_training_needs_more_for_more_clips_and_float32() -> None:
    head = classifier(4, 6, dropout=0.1, l2=0.0, units=8, projection=8)
    half, whole = (training_memory(head, clips, 2) for clips in (8, 16))
    assert whole.activations == 2 * half.activations
    assert training_memory(head, 8, 4).activations == 2 * half.activations
    assert whole.optimizer == half.optimizer > 0
