"""Watch cameras and keep an event of each alarm: `watch.py cameras.toml`."""

import argparse
import contextlib
import json
import logging
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from violence_detection.commands.flags import (
    add_checkpoint_dir,
    add_debug,
    add_devices,
    add_threshold,
    add_verify,
    add_vgg19_weights,
    examples_and_exit_status,
)
from violence_detection.commands.loading import load_for, reported
from violence_detection.commands.output import write_text
from violence_detection.errors import UserError
from violence_detection.runtime.interrupts import Interrupted, run_or_explain
from violence_detection.settings.parser import FlagParser

if TYPE_CHECKING:
    from violence_detection.cameras.settings import WatchSettings
    from violence_detection.cameras.watcher import Watcher

log = logging.getLogger(__name__)

DELIVERY, DELIVERY_IF_INTERRUPTED = 30.0, 2.0  # seconds that receivers have at the end
FILE = """\
the file, with a table [[camera]] for each (docs/cameras.md has all keys):
  [alarm]
  windows = "3 of 5"
  [[camera]]
  name = "yard"
  source = "rtsp://camera/stream"

SIGHUP reads the file again; cameras that are as they were are watched on.

"""
STATUSES = {
    0: "all sources have ended, or Ctrl-C or SIGTERM was received",
    1: "something failed: a device",
    2: "a flag or the file is wrong",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    flags = make_parser().parse_args(arguments)
    return run_or_explain(lambda: watch(flags), flags.debug)


def make_parser() -> FlagParser:
    """Return the parser of the command's flags."""
    parser = FlagParser(
        usage="%(prog)s FILE [flags]",
        description="Watch cameras, and keep clip and snapshot of each alarm.",
        epilog=FILE + examples_and_exit_status(["cameras.toml"], STATUSES),
    )
    parser.add_argument("cameras", type=Path, metavar="FILE", help="the cameras, a TOML file")
    add_checkpoint_dir(parser)
    add_verify(parser)
    add_vgg19_weights(parser)
    add_threshold(parser)
    add_devices(parser)
    add_debug(parser)
    return parser


def watch(flags: argparse.Namespace) -> int:
    """Watch until a signal, or the end of all sources; return the exit status.

    Raises:
        UserError: the file or a flag is wrong; there is no detector.
    """
    from violence_detection.cameras.settings import read_cameras

    if flags.replicas is not None:
        raise UserError("--replicas: all cameras are computed on one device: drop it")
    settings = read_cameras(flags.cameras)
    detector = load_for(flags, replicas=1)  # frames come one by one
    from violence_detection.cameras.receivers import Receivers
    from violence_detection.cameras.watcher import Watcher

    _start_log()
    asked = False

    def ask(*_: Any) -> None:
        nonlocal asked
        asked = True

    def reloaded() -> "WatchSettings | None":
        nonlocal asked
        if not asked:
            return None
        asked = False
        try:
            return read_cameras(flags.cameras)
        except UserError as error:
            log.error("the cameras stay as they are: %s", error)
            return None

    signal.signal(signal.SIGHUP, ask)
    with reported(detector, quiet=False):
        names = [camera.name for camera in settings.cameras]
        receivers = Receivers(settings.receivers, names, settings.events)

        def notify(line: dict[str, Any]) -> None:
            write_text([json.dumps(line) + "\n"], None)
            receivers.put(line)

        patience = DELIVERY
        watcher = Watcher(detector, settings, notify)
        try:
            with _page(watcher, settings):
                watcher.run(reloaded)
        except Interrupted:  # how watching cameras ends
            log.info("stopped")
            patience = DELIVERY_IF_INTERRUPTED
        finally:
            receivers.close(patience)
    return 0


@contextlib.contextmanager
def _page(watcher: "Watcher", settings: "WatchSettings") -> Iterator[None]:
    """Show the page during the block, if there is to be one."""
    if settings.page is None:
        yield
        return
    from violence_detection.cameras.page import shown

    with shown(watcher, settings.page) as address:
        log.info("page: %s", address)
        yield


def _start_log() -> None:
    screen = logging.StreamHandler()
    screen.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("violence_detection")
    logger.handlers, logger.propagate = [screen], False
    logger.setLevel(logging.INFO)
    logging.getLogger("violence_detection.serving").setLevel(logging.WARNING)  # not each request
