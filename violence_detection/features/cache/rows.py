"""Rows of features in files, read on demand."""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from violence_detection.errors import RunError
from violence_detection.features.cache.parts import OpenFile

PART_ROWS = 2**40  # more than a part has rows; times a part's number it stays below 2^63


def row_checksum(row: np.ndarray) -> int:
    """Return the CRC-32 of a row's bytes: as fast as memory, against damage, not malice."""
    return zlib.crc32(row.reshape(-1).view(np.uint8).data)


class FeatureRows:
    """Files of rows of features. A row's number is `PART_ROWS` times its file's, plus its position.

    Read, not mapped into memory: the pages of a memory map count as the process's own once they
    are touched, after an epoch the whole cache, and a file that is cut short would kill the
    process.

    Args:
        files: a file, or several; None for one that is elsewhere.
        row_shape: `(frames, features)`.
        dtype: on disk.
    """

    def __init__(
        self, files: Path | Sequence[OpenFile | None], row_shape: tuple[int, int], dtype: str
    ):
        self._files = [OpenFile(files)] if isinstance(files, Path) else files
        self.row_shape = row_shape
        self.dtype = np.dtype(dtype)
        self.row_bytes = math.prod(row_shape) * self.dtype.itemsize

    def has(self, row: int) -> bool:
        """Return whether a row's file is here."""
        return self._files[row // PART_ROWS] is not None

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Return the features in rows; other threads run while the disk is read.

        Args:
            rows: their numbers; a row of -1 is zeros.

        Returns:
            `(rows, frames, features)` in the dtype on disk.

        Raises:
            RunError: a row cannot be read, or is beyond the end of its file.
        """
        features = np.empty((len(rows), *self.row_shape), self.dtype)
        buffer = features.reshape(-1).view(np.uint8).data
        for index, row in enumerate(rows):
            if row < 0:
                features[index] = 0
                continue
            target = buffer[index * self.row_bytes : (index + 1) * self.row_bytes]
            number, position = divmod(row, PART_ROWS)
            file = self._files[number]
            path = file.path if file else f"part {number}"
            try:
                read = file.read_into(target, position * self.row_bytes) if file else 0
            except OSError as error:
                raise RunError(f"{path} cannot be read: {error.strerror}") from error
            if read < self.row_bytes:
                raise RunError(f"{path} has lost row {position}: start again to recompute it")
        return features
