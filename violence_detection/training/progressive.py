"""Progressive resizing: training begins with small pictures, in larger batches."""

from dataclasses import dataclass

import keras

from violence_detection.settings.schema import Settings


@dataclass(frozen=True)
class PictureSizes:
    """The size of the frames in each epoch; each size has an equal share of the epochs.

    After Touvron et al., https://arxiv.org/abs/1906.06423, and Howard's "progressive resizing".

    Args:
        sizes: in pixels, growing; none: of a model that is not trained from pixels.
        epochs: number of epochs of the training.
    """

    sizes: tuple[int, ...] = ()
    epochs: int = 1

    def size(self, epoch: int) -> int:
        """Return the size in an epoch, counted from 0, in pixels."""
        if not self.sizes:
            return 0
        left = max(0, self.epochs - 1 - epoch)  # the last epoch has the last size
        return self.sizes[-1 - (left * len(self.sizes) // self.epochs)]

    def batches_at_once(self, epoch: int) -> int:
        """Return how many batches make one step: as many as have the pixels of one at the end."""
        return int((self.sizes[-1] / self.size(epoch)) ** 2) if self.sizes else 1

    def steps(self, epochs: int, batches: int, per_call: int) -> int:
        """Return the number of steps in the first `epochs`.

        Args:
            epochs: counted from the first.
            batches: of an epoch.
            per_call: of the batches of an epoch, how many are passed to a device at once; a step
                has batches of one call.
        """
        calls = [min(per_call, batches - first) for first in range(0, batches, per_call)]
        return sum(
            -(-call // self.batches_at_once(epoch)) for epoch in range(epochs) for call in calls
        )


def picture_sizes(settings: Settings) -> PictureSizes:
    """Return the sizes that --pixels names."""
    sizes = settings.features.pixels if settings.model.from_pixels else ()
    return PictureSizes(sizes, settings.training.epochs)


class GrowPictures(keras.callbacks.Callback):
    """Tells the trainer the size of each epoch."""

    def __init__(self, sizes: PictureSizes):
        super().__init__()
        self.sizes = sizes

    def on_epoch_begin(self, epoch: int, logs: dict[str, object] | None = None) -> None:
        """Set size and number of batches per step."""
        self.model.picture_size = self.sizes.size(epoch)
        self.model.batches_at_once = self.sizes.batches_at_once(epoch)
