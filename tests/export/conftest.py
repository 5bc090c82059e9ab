"""Networks that several tests export, each built once."""

from collections.abc import Callable
from functools import cache

import keras
import pytest

from tests.export.examples import FRAMES, STREAMS, make_classifier
from violence_detection.export.graph import Source, detector_network, end_to_end_network
from violence_detection.models.vgg19 import load_vgg19_weights, vgg19

LARGE_VALUES = 2048  # features per frame: the weights are most of the file


@pytest.fixture(scope="session")
def network_of() -> Callable[[str], keras.Model]:
    """Return a function that builds the network of a kind of classifier."""
    return cache(lambda kind: detector_network(make_classifier(kind), 1.5))


@pytest.fixture(scope="session")
def large_network() -> keras.Model:
    """Return a network whose file consists mostly of weights."""
    return detector_network(make_classifier("attention-lstm", LARGE_VALUES), 1.5)


@pytest.fixture(scope="session")
def end_to_end() -> tuple[keras.Model, keras.Model]:
    """Return a network from the images of `STREAMS`, and the one from features inside it."""
    extractor = vgg19("block1_conv2")
    load_vgg19_weights(extractor, "random", "block1_conv2")
    head = detector_network(make_classifier("attention-lstm", len(STREAMS) * 64), 1.5)
    source = Source(extractor, "vgg19", STREAMS, range(len(STREAMS)))
    return end_to_end_network(head, [source], FRAMES), head
