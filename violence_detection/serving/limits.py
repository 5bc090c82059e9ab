"""What the service accepts, and how long it waits."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of one service.

    Args:
        max_upload: bytes of a clip.
        max_seconds: duration of a clip.
        max_requests: requests that upload, wait or are processed at once.
        clip_timeout: seconds that decoding a clip may take, a whole video included.
        max_windows, max_samples, max_frames: of a video in windows: how many of them, sampled
            frames in them, and frames to decode.
        stall_timeout: seconds without any data after which an upload is refused.
        upload_timeout: seconds that a whole upload may take.
        least_rate: bytes per second of an upload, on average after `grace` seconds.
        max_uploads: uploads at once, for all clients and, half of them, for one.
        max_connections: open connections, for all clients and, half of them, for one.
        header_timeout: seconds that a connection may be open without a whole request's head.
    """

    max_upload: int
    max_seconds: float
    max_requests: int
    clip_timeout: float
    stall_timeout: float = 20.0
    upload_timeout: float = 300.0
    max_windows: int = 5_000
    max_samples: int = 20_000
    max_frames: int = 72_000
    least_rate: float = 16 * 1024
    grace: float = 10.0
    max_uploads: int = 64
    max_connections: int = 512
    header_timeout: float = 15.0


class ClientCounts:
    """Counts what clients have open at once.

    Args:
        most: how many there may be, in all and, half of them, of one client.
    """

    def __init__(self, most: int):
        self.most = most
        self._of_client: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many all clients have."""
        return self._of_client.total()

    def add(self, client: str) -> bool:
        """Count one more of a client; return whether there is room for it."""
        if self.total >= self.most or self._of_client[client] >= max(1, self.most // 2):
            return False
        self._of_client[client] += 1
        return True

    def remove(self, client: str) -> None:
        """Count one less."""
        self._of_client[client] -= 1
        if not self._of_client[client]:
            del self._of_client[client]


class QueueFull(Exception):
    """All request slots are taken.

    Args:
        retry_after: estimated seconds until a slot is free.
    """

    def __init__(self, retry_after: int):
        super().__init__(retry_after)
        self.retry_after = retry_after


class ClipTooLong(Exception):
    """A clip is longer than allowed.

    Args:
        seconds: its duration, or a lower bound.
    """

    def __init__(self, seconds: float):
        super().__init__(seconds)
        self.seconds = seconds


class TooMuchWork(Exception):
    """A video in windows would take more work than a request may.

    Args:
        what: of which it has too many: windows, samples or frames.
        count: how many; a lower bound.
        allowed: how many a request may have.
    """

    def __init__(self, what: str, count: int, allowed: int):
        super().__init__(what, count, allowed)
        self.what, self.count, self.allowed = what, count, allowed
