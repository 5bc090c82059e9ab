"""`predict` for a live source: a stream, a camera, or a file played at its own rate."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from violence_detection.commands.loading import load_for, reported
from violence_detection.commands.output import print_message, write_text
from violence_detection.commands.predict_files import BAD_CLIPS
from violence_detection.errors import UserError
from violence_detection.runtime.interrupts import Interrupted
from violence_detection.settings.setting import flag

if TYPE_CHECKING:
    from violence_detection.inference.detector import Detector
    from violence_detection.inference.live_source import Source

LIVE_WINDOW = 2.0  # seconds
SILENCE = 10.0  # seconds without a frame, after which a source is reconnected
DELIVERY, DELIVERY_IF_INTERRUPTED = 30.0, 1.0  # seconds that webhook posts may take at the end


def watch_live(flags: argparse.Namespace) -> int:
    """Write the events of a live source as they happen, until it ends; return the exit status.

    Raises:
        UserError: the source or the webhook cannot be used, or flags do not fit a live source.
    """
    from violence_detection.clips.sampling import check_windows
    from violence_detection.inference.live_source import parse_source
    from violence_detection.inference.webhook import require_webhook_url

    if flags.clips:
        raise UserError("--source cannot be combined with clips: drop one of them")
    unused = ("csv", "output", "export", "explain", "whole", "plot", "annotate", "replicas")
    for name in (*unused, "compare_with", "compare_dir"):
        if getattr(flags, name):
            raise UserError(f"{flag(name)} cannot be combined with --source: drop one of them")
    if flags.webhook is not None:
        require_webhook_url(flags.webhook)
    source = parse_source(flags.source)
    window = LIVE_WINDOW if flags.window is None else flags.window
    stride = window / 2 if flags.stride is None else flags.stride
    check_windows(window, stride)
    detector = load_for(flags, replicas=1)  # frames come one by one
    silence = SILENCE if flags.clip_timeout is None else flags.clip_timeout
    with reported(detector, flags.quiet):
        return _watch(detector, source, (window, stride), silence, flags.webhook, flags.quiet)


def _watch(
    detector: "Detector",
    source: "Source",
    window_and_stride: tuple[float, float],
    silence: float,
    webhook_url: str | None,
    quiet: bool,
) -> int:
    from violence_detection.inference.live import LiveMonitor
    from violence_detection.inference.live_source import SourceReader
    from violence_detection.inference.webhook import Webhook
    from violence_detection.inference.windows import window_sampling

    sampling = window_sampling(detector, *window_and_stride)
    webhook = Webhook(webhook_url, print_message) if webhook_url else None

    def notify(notice: dict[str, Any]) -> None:
        if webhook:
            webhook.post(notice)
        write_text([json.dumps(notice) + "\n"], None)

    def report(line: str) -> None:
        if not quiet:
            print_message(line)

    monitor = LiveMonitor(detector, sampling, notify, report)
    delivery = DELIVERY_IF_INTERRUPTED
    try:
        with SourceReader(source, sampling, silence) as reader:
            monitor.run(reader)
        delivery = DELIVERY
    except Interrupted as interrupt:  # how watching a camera usually ends
        return 128 + interrupt.number
    finally:
        if webhook:
            webhook.close(delivery)
    if monitor.error is not None:
        print_message(f"{source.display_name}: {monitor.error}")
        return BAD_CLIPS
    return 0
