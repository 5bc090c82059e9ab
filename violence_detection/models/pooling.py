"""What the maps of a convolution become: a few values per channel."""

import keras
from keras import ops


def pooled(maps: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    """Return the features of frames from their maps: a few values per channel.

    Args:
        maps: `(frames, height, width, channels)`.
        pooling: "mean" over the picture; "max"; "top", the mean of the largest tenth, which
            does not dilute what happens in a corner; "mean+max"; "grid", the means of the
            picture's four quarters; "flat", all values.

    Returns:
        `(frames, values)`: as many as channels, twice as many, four times, or all.
    """
    height, width, channels = maps.shape[1:]
    if pooling == "flat":
        return ops.reshape(maps, (-1, height * width * channels))
    if pooling == "mean":
        return ops.mean(maps, axis=(1, 2))
    if pooling == "max":
        return ops.max(maps, axis=(1, 2))
    if pooling == "mean+max":
        return ops.concatenate([pooled(maps, "mean"), pooled(maps, "max")], axis=-1)
    if pooling == "grid":  # the quarters of an odd size share the middle
        above, left = slice((height + 1) // 2), slice((width + 1) // 2)
        below, right = slice(height // 2, None), slice(width // 2, None)
        quarters = [maps[:, rows, columns] for rows in (above, below) for columns in (left, right)]
        return ops.concatenate([pooled(quarter, "mean") for quarter in quarters], axis=-1)
    places = height * width
    by_channel = ops.transpose(ops.reshape(maps, (-1, places, channels)), (0, 2, 1))
    largest, _ = ops.top_k(by_channel, max(1, round(places / 10)), sorted=False)
    return ops.mean(largest, axis=-1)
