"""The two networks. Run as a command, it prints both layer by layer, and the memory they need.

    python model_architecture.py
    python model_architecture.py --feature-layer block3_pool --head transformer --batch-size 96

The flags are those of the training; --dataset-path is not needed.
"""

import sys

from violence_detection.runtime.environment import require_environment

if __name__ == "__main__":
    require_environment()  # what follows loads Keras

from violence_detection.models.classifier import average_of, classifier, with_attention
from violence_detection.models.vgg19 import build_extractor, vgg19
from violence_detection.models.vgg19_weights import feature_size
from violence_detection.runtime.interrupts import leave, run_or_explain
from violence_detection.settings.parser import parse_settings

__all__ = ["average_of", "build_extractor", "classifier", "feature_size", "vgg19", "with_attention"]


def main(arguments: list[str]) -> int:
    """Print both networks and a memory budget for the flags given; return 0 or 2."""

    def job() -> int:
        from violence_detection.models.summary import describe_networks

        # Nothing is read from the dataset: any folder will do.
        print(describe_networks(parse_settings(["--dataset-path", ".", *arguments])))
        return 0

    return run_or_explain(job, "--debug" in arguments)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
