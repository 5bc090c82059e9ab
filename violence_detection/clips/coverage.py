"""Which packets of a video became frames."""

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame

LONGEST_GAP = 5.0  # seconds; more is a pause of the recording, also in a damaged file
NEAR = 0.75  # of a period: a packet with a frame so near is a field, or one that is never shown


class Coverage:
    """Notes the packets and the frames of a video; 16 bytes of memory for each.

    Attributes:
        count: of the packets.
    """

    def __init__(self) -> None:
        self.count = 0
        self._packets = array("q")  # time stamps
        self._frames = array("q")

    def noted(self, packets: Iterable[Packet]) -> Iterator[Packet]:
        """Yield packets, and note them."""
        for packet in packets:
            self.count += 1
            if packet.pts is not None:
                self._packets.append(packet.pts)
            yield packet

    def add(self, frame: VideoFrame) -> None:
        """Note a frame that was decoded."""
        if frame.pts is not None:
            self._frames.append(frame.pts)

    @property
    def stamps(self) -> Sequence[int]:
        """The time stamps of the packets, as far as they have them."""
        return self._packets

    def decoded_share(self, refused: int) -> float:
        """Return the share of the packets that became frames, 0 to 1.

        Args:
            refused: how many packets the decoder refused; counts if some have no time stamps.
        """
        if len(self._packets) < self.count or not self._frames:
            return 1 - refused / max(1, self.count)
        return decoded_share(np.array(self._packets), np.array(self._frames))


def decoded_share(packets: np.ndarray, frames: np.ndarray) -> float:
    """Return the share of packets that became frames.

    Second fields, and packets that are never shown, count as decoded if there is a frame nearby.

    Args:
        packets: `(packets,)`, their time stamps.
        frames: `(frames,)`, at least one, in the same unit.
    """
    frames = np.unique(frames)
    periods = np.diff(frames if len(frames) > 1 else np.unique(packets))
    # The shortest ones: longer ones may be those across lost frames.
    period = np.percentile(periods, 10) if len(periods) else np.inf
    after = np.searchsorted(frames, packets).clip(max=len(frames) - 1)
    before = (after - 1).clip(min=0)
    distance = np.minimum(np.abs(frames[after] - packets), np.abs(packets - frames[before]))
    return float((distance <= NEAR * period).mean())


def missing_frames(times: Sequence[float], duration: float | None) -> float:
    """Return about how many frames are missing in the gaps of a damaged video and at its end.

    Args:
        times: of the packets that it has, at least two, in seconds.
        duration: what the file says; None: unknown.
    """
    shown = np.unique(times)
    gaps = np.diff(shown)
    period = max(float(np.percentile(gaps, 90)), 1e-6) if len(gaps) else np.inf
    lost = gaps[(gaps > 1.5 * period) & (gaps <= LONGEST_GAP)].sum() / period
    return float(lost + max(0.0, (duration or 0.0) - shown[-1] - period) / period)
