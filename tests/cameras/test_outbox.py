import threading
from collections.abc import Callable
from pathlib import Path

from tests.waiting import wait_until
from violence_detection.cameras.outbox import Line, NotDelivered, Outbox, Refused


class Receiver:
    """Takes lines, unless it is down."""

    def __init__(self) -> None:
        self.lines: list[int] = []
        self.is_up = threading.Event()

    def deliver(self, line: Line) -> None:
        if not self.is_up.is_set():
            raise NotDelivered("down")
        if line["number"] == 13:
            raise Refused("unlucky")
        self.lines.append(line["number"])


def outbox(folder: Path, deliver: Callable[[Line], None]) -> Outbox:
    return Outbox("receiver", folder, deliver, first_pause=0.01)


def test_lines_wait_for_the_receiver_and_come_once_in_order(tmp_path: Path) -> None:
    receiver = Receiver()
    box = outbox(tmp_path, receiver.deliver)
    for number in range(10):
        box.put({"number": number})
    assert receiver.lines == []
    receiver.is_up.set()
    wait_until(lambda: len(receiver.lines) == 10)
    receiver.is_up.clear()
    for number in range(10, 15):
        box.put({"number": number})
    receiver.is_up.set()
    box.close(10.0)
    assert receiver.lines == [*range(13), 14]  # what is refused holds up nothing
    assert list(tmp_path.iterdir()) == []


def test_lines_wait_for_the_next_start(tmp_path: Path) -> None:
    receiver = Receiver()
    box = outbox(tmp_path, receiver.deliver)
    for number in range(3):
        box.put({"number": number})
    box.close(0.05)
    assert receiver.lines == []
    receiver.is_up.set()
    again = outbox(tmp_path, receiver.deliver)
    again.put({"number": 3})
    again.close(10.0)
    assert receiver.lines == [0, 1, 2, 3]
