"""Serve a trained detector over HTTP: a page to drop clips on, and an API."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from violence_detection.clips.dataset import is_video, video_names
from violence_detection.commands.config_file import add_config, parse_with_config
from violence_detection.commands.flags import (
    PROBABILITY,
    add_checkpoint_dir,
    add_clip_timeout,
    add_debug,
    add_devices,
    add_threshold,
    add_verify,
    add_vgg19_weights,
    check_values,
    examples_and_exit_status,
)
from violence_detection.commands.loading import load_for
from violence_detection.errors import UserError
from violence_detection.models import random_weights_warning
from violence_detection.runtime.interrupts import run_or_explain
from violence_detection.runtime.listening import bound_socket, is_loopback, is_token, own_names
from violence_detection.settings.parser import FlagParser
from violence_detection.settings.setting import ABOVE_0, AT_LEAST_0, AT_LEAST_1, Check
from violence_detection.settings.values import finite

log = logging.getLogger(__name__)

LIMITED = {"windows": "windows", "samples": "sampled frames", "frames": "decoded frames"}

TOKEN_VARIABLE = "VIOLENCE_API_TOKEN"
PORT: Check = (lambda value: 0 <= value <= 65535, "must be from 0 to 65535")

ENVIRONMENT = f"""\
environment:
  {TOKEN_VARIABLE}   bearer token, instead of --token
  TMPDIR               folder for uploaded clips while they are processed

"""
EXAMPLES = (
    "",
    "--port 9000 --threshold 0.7",
    "--host 0.0.0.0",
    "--config serve.json",
)
STATUSES = {
    0: "stopped by Ctrl-C or SIGTERM, with accepted requests answered",
    1: "something failed: a disk, a device",
    2: "a flag or its value is wrong, or the port is taken",
    130: "ended by Ctrl-C while loading (143: by SIGTERM)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name; None: those of this process.

    Returns:
        The exit status.
    """
    debug = "--debug" in (sys.argv if arguments is None else arguments)
    return run_or_explain(lambda: serve(parse_with_config(make_parser(), arguments)), debug)


def make_parser() -> FlagParser:
    """Return the parser of the command's flags."""
    parser = FlagParser(
        usage="%(prog)s [flags]",
        description="Serve a trained detector over HTTP: a page to drop clips on, and an API.",
        epilog=ENVIRONMENT + examples_and_exit_status(EXAMPLES, STATUSES),
    )
    detector = parser.add_argument_group("detector")
    add_checkpoint_dir(detector)
    add_verify(detector)
    detector.add_argument(
        "--trial",
        type=Path,
        metavar="DIR|FILE",
        help="clips that a new model must be able to predict before SIGHUP or /reload puts it into "
        "use (default: a drawn one)",
    )
    add_vgg19_weights(detector)
    add_threshold(detector)
    add_devices(detector)
    _add_access_flags(parser.add_argument_group("access"))
    _add_limit_flags(parser.add_argument_group("limits"))
    add_config(parser)
    add_debug(parser)
    return parser


def _add_access_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; one that other machines reach needs a token or --insecure "
        "(default: 127.0.0.1)",
    )
    group.add_argument(
        "--port", type=int, default=8000, help="port to listen on; 0: any free one (default: 8000)"
    )
    group.add_argument(
        "--token",
        help="bearer token that requests must have; other users of the machine can see it, so "
        f"{TOKEN_VARIABLE} is safer (default: none)",
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help="answer everybody who can reach --host, without a token (default: off)",
    )
    group.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="allow requests from the pages of this site, such as https://host; may be repeated "
        "(default: none)",
    )
    group.add_argument(
        "--audit",
        type=Path,
        metavar="FILE",
        help="log time, client, the clip's SHA-256, model and prediction, a line of JSON each, "
        "chained by hashes (default: none)",
    )
    group.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer requests that are sent to this name, too; may be repeated (default: this "
        "machine's names; IP addresses are always answered)",
    )


def _add_limit_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-upload",
        type=finite,
        default=100.0,
        metavar="MB",
        help="largest size of a clip (default: 100)",
    )
    group.add_argument(
        "--max-seconds",
        type=finite,
        default=600.0,
        metavar="SECONDS",
        help="longest duration of a clip (default: 600)",
    )
    group.add_argument(
        "--max-requests",
        type=int,
        default=64,
        metavar="N",
        help="number of requests accepted at once; others get status 503 (default: 64)",
    )
    for what, default in (("windows", 5_000), ("samples", 20_000), ("frames", 72_000)):
        group.add_argument(
            f"--max-{what}",
            type=int,
            default=default,
            metavar="N",
            help=f"most {LIMITED[what]} of a video in windows (default: {default})",
        )
    add_clip_timeout(group)
    group.add_argument(
        "--drain",
        type=finite,
        default=30.0,
        metavar="SECONDS",
        help="longest that accepted requests may take after SIGTERM (default: 30)",
    )


def check_flags(flags: argparse.Namespace) -> str | None:
    """Return the token, None if requests need none.

    Raises:
        UserError: a value is out of its range, or the server would be open to other machines.
    """
    check_values(
        flags,
        max_upload=ABOVE_0,
        max_seconds=ABOVE_0,
        clip_timeout=ABOVE_0,
        drain=AT_LEAST_0,
        threshold=PROBABILITY,
        max_requests=AT_LEAST_1,
        max_windows=AT_LEAST_1,
        max_samples=AT_LEAST_1,
        max_frames=AT_LEAST_1,
        replicas=AT_LEAST_1,
        port=PORT,
    )
    for origin in flags.cors:
        if not _is_origin(origin):
            raise UserError(f"--cors {origin}: must be https://host or https://host:port")
    name = "--token" if flags.token is not None else TOKEN_VARIABLE
    token = flags.token if flags.token is not None else os.environ.get(TOKEN_VARIABLE)
    if token is not None and not is_token(token):
        raise UserError(f"{name}: must be visible ASCII characters, without spaces")
    if token is None and not flags.insecure and not is_loopback(flags.host):
        raise UserError(
            f"--host {flags.host} can be reached from other machines: set a token in "
            f"{TOKEN_VARIABLE}, or give --insecure to answer everybody"
        )
    return token


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
            and text == f"{parts.scheme}://{parts.netloc}"
            and "@" not in text
        )
    except ValueError:
        return False


def serve(flags: argparse.Namespace) -> int:
    """Serve until a signal; return the exit status.

    Raises:
        UserError: a flag's value is wrong, or the address cannot be used.
        RunError: the networks cannot be made.
    """
    token = check_flags(flags)
    os.environ.pop(TOKEN_VARIABLE, None)  # decoder processes need not know it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: os._exit(128 + received))  # nothing to lose yet
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(
            bound_socket(flags.host, flags.port, "--host {host} --port {port}")
        )
        trial = trial_clips(flags.trial) if flags.trial else []
        detector = load_for(flags)
        from violence_detection.serving.access import Access
        from violence_detection.serving.audit import AuditLog
        from violence_detection.serving.limits import Limits
        from violence_detection.serving.server import run_server, start_service_log
        from violence_detection.serving.service import Service
        from violence_detection.serving.uploads import upload_folder

        uploads = stack.enter_context(upload_folder(Path(tempfile.gettempdir())))
        limits = Limits(
            max_upload=int(flags.max_upload * 2**20),
            max_seconds=flags.max_seconds,
            max_requests=flags.max_requests,
            clip_timeout=flags.clip_timeout,
            max_windows=flags.max_windows,
            max_samples=flags.max_samples,
            max_frames=flags.max_frames,
            max_uploads=max(64, flags.max_requests),
            max_connections=max(512, 4 * flags.max_requests),
        )
        start_service_log(flags.debug)
        if untrained := detector.untrained_backbones:
            log.warning("%s", random_weights_warning(untrained))
        service = Service(
            *(detector, uploads, limits),
            Access(token, flags.cors, own_names(flags.host, flags.allowed_host)),
            guards_status=not is_loopback(flags.host),
            audit=flags.audit and AuditLog(flags.audit),
        )
        load = partial(load_for, flags)
        asyncio.run(run_server(service, listening, flags.drain, load, trial))
    return 0


def trial_clips(path: Path) -> list[Path]:
    """Return the clips of --trial: a file, or the videos in a folder at any depth.

    Raises:
        UserError: there are none.
    """
    if path.is_file() and is_video(path.name):
        return [path]
    found = [path / name for name in sorted(video_names(path))] if path.is_dir() else []
    if not found:
        raise UserError(f"--trial {path}: neither a video file nor a folder with some")
    return found
