"""What the service accepts, and how long it waits."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of one service.

    Args:
        max_upload: bytes of a clip.
        max_seconds: duration of a clip.
        max_requests: requests that upload, wait or are processed at once.
        clip_timeout: seconds that decoding a clip may take.
        stall_timeout: seconds without any data after which an upload is refused.
        upload_timeout: seconds that a whole upload may take.
    """

    max_upload: int
    max_seconds: float
    max_requests: int
    clip_timeout: float
    stall_timeout: float = 20.0
    upload_timeout: float = 300.0
