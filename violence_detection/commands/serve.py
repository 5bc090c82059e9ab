"""Serve a trained detector over HTTP: clips are sent to it, or dropped on its page, and judged.

python serve.py --checkpoint-dir ./checkpoints --port 8000
"""

import argparse
import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import os
import re
import signal
import socket
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from violence_detection.errors import UserError
from violence_detection.models import RANDOM_WEIGHTS_WARNING
from violence_detection.runtime.interrupts import run_or_explain
from violence_detection.runtime.tensorflow_log import quiet_tensorflow
from violence_detection.settings.constants import CLIP_TIMEOUT
from violence_detection.settings.parser import FlagParser
from violence_detection.settings.values import finite

if TYPE_CHECKING:
    from violence_detection.serving.service import Service

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "VIOLENCE_API_TOKEN"
# What FFmpeg may open: containers of video, and nothing that they name. It also knows playlists.
CONTAINERS = "mov,matroska,avi,flv,asf,mpeg,mpegts,mpegvideo,ogg"
CAPTURE_OPTIONS = f"protocol_whitelist;file|format_whitelist;{CONTAINERS}"
KEEP_ALIVE = 75  # seconds; longer than a proxy keeps a connection: it must not meet a closed one
LAST_ANSWERS = 2  # seconds that connections have to end once all requests are answered


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    flags = make_parser().parse_args(arguments)
    return run_or_explain(lambda: serve(flags), flags.debug)


def make_parser() -> FlagParser:
    """Return the parser of the command."""
    parser = FlagParser(
        description="Serve a trained detector over HTTP: a page to drop clips on, and an API.",
        epilog="SIGTERM or Ctrl-C: what was taken in is judged, then it ends. TMPDIR names where "
        "clips are kept while they are judged.",
        allow_abbrev=False,
    )
    parser.add_checkpoint_dir()
    parser.add_argument(
        "--vgg19-weights",
        metavar="NAME|FILE",
        help="imagenet, random or an .h5 file: those of the training, wherever they are now "
        "(default: where they were then)",
    )
    parser.add_argument(
        "--threshold",
        type=finite,
        metavar="P",
        help="call clips of at least this probability violent (default: as chosen in training)",
    )
    access = parser.add_argument_group("who may ask")
    access.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="to listen on; any but this machine's own wants a token (default: 127.0.0.1)",
    )
    access.add_argument(
        "--port", type=int, default=8000, help="to listen on; 0: any free one (default: 8000)"
    )
    access.add_argument(
        "--token",
        help=f"that requests must bear; others see it among the processes: better in "
        f"{TOKEN_VARIABLE} (default: none)",
    )
    access.add_argument(
        "--insecure",
        action="store_true",
        help="let anybody who reaches --host ask, without a token (default: off)",
    )
    access.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of another site ask, as https://host; may be given again (default: none)",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-upload", type=finite, default=100.0, metavar="MB", help="of a clip (default: 100)"
    )
    limits.add_argument(
        "--max-seconds",
        type=finite,
        default=600.0,
        metavar="SECONDS",
        help="that a clip may last (default: 600)",
    )
    limits.add_argument(
        "--max-requests",
        type=int,
        default=64,
        metavar="N",
        help="taken in at once, uploading, waiting or judged; others are told to come back "
        "(default: 64)",
    )
    limits.add_argument(
        "--clip-timeout",
        type=finite,
        default=CLIP_TIMEOUT,
        metavar="SECONDS",
        help=f"that reading a clip may take (default: {CLIP_TIMEOUT:g})",
    )
    limits.add_argument(
        "--drain",
        type=finite,
        default=30.0,
        metavar="SECONDS",
        help="that requests have to end after SIGTERM (default: 30)",
    )
    computing = parser.add_argument_group("computing")
    computing.add_argument(
        "--mixed-precision",
        action=argparse.BooleanOptionalAction,
        help="VGG19 in float16 on a GPU, in bfloat16 on a CPU that has it (default: as in "
        "training where this device can, so that answers are the same; else float32)",
    )
    computing.add_argument(
        "--replicas",
        type=int,
        metavar="N",
        help="GPUs to use (default: all); without a GPU, parts of the CPU (default: 1)",
    )
    computing.add_argument(
        "--debug", action="store_true", help="show errors with their traceback (default: off)"
    )
    return parser


def check(flags: argparse.Namespace) -> str | None:
    """Return the token; raise `UserError` for a value out of its range."""
    for name in ("max_upload", "max_seconds", "clip_timeout"):
        if not getattr(flags, name) > 0:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {getattr(flags, name):g}: must be above 0")
    if flags.drain < 0:
        raise UserError(f"--drain {flags.drain:g}: must be 0 or more")
    if flags.threshold is not None and not 0 <= flags.threshold <= 1:
        raise UserError(f"--threshold {flags.threshold:g}: must be from 0 to 1")
    for name in ("max_requests", "replicas"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be 1 or more")
    if not 0 <= flags.port <= 65535:
        raise UserError(f"--port {flags.port}: must be from 0 to 65535")
    for origin in flags.cors:
        if not _is_origin(origin):
            raise UserError(f"--cors {origin}: name a site as https://host or https://host:port")
    given = "--token" if flags.token is not None else TOKEN_VARIABLE
    token = flags.token if flags.token is not None else os.environ.get(TOKEN_VARIABLE)
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise UserError(f"{given}: a token is of visible ASCII characters, without blanks")
    if token is None and not flags.insecure and not _is_own(flags.host):
        raise UserError(
            f"--host {flags.host} can be reached from other machines: set a token "
            f"({TOKEN_VARIABLE}), or let anybody ask (--insecure)"
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


def _is_own(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(flags: argparse.Namespace) -> int:
    """Serve until told to end; return the exit status."""
    token = check(flags)
    os.environ.pop(TOKEN_VARIABLE, None)  # the decoders need not know it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda told, _: os._exit(128 + told))  # nothing is lost yet
    # TensorFlow takes seconds to load: only now, when the rest is known to be right.
    from violence_detection.runtime.logs import native_messages_to
    from violence_detection.serving.uploads import upload_folder

    quiet_tensorflow()
    with contextlib.ExitStack() as held:
        listening = held.enter_context(bound(flags.host, flags.port))
        with native_messages_to(Path(os.devnull)):
            from violence_detection.inference.detector import load_detector
            from violence_detection.serving.limits import Limits
            from violence_detection.serving.service import Service

            detector = load_detector(
                flags.checkpoint_dir,
                flags.vgg19_weights,
                mixed_precision=flags.mixed_precision,
                replicas=flags.replicas,
            )
        if flags.threshold is not None:
            detector = dataclasses.replace(
                detector, threshold=flags.threshold, chosen_for="--threshold"
            )
        uploads = held.enter_context(upload_folder(Path(tempfile.gettempdir())))
        limits = Limits(
            max_upload=int(flags.max_upload * 2**20),
            max_seconds=flags.max_seconds,
            max_requests=flags.max_requests,
            clip_timeout=flags.clip_timeout,
        )
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = CAPTURE_OPTIONS  # of the decoders
        start_log(flags.debug)
        if detector.untrained_vgg19:
            log.warning("%s", RANDOM_WEIGHTS_WARNING)
        service = Service(detector, uploads, limits, token, flags.cors)
        return asyncio.run(answer(service, listening, flags.drain))


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """Hold a socket at an address, not listening yet; raises `UserError` if it cannot be had."""
    with contextlib.ExitStack() as held:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listening = held.enter_context(socket.socket(family, kind))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError as error:
            raise UserError(f"--host {host} --port {port}: {error.strerror}") from error
        except UnicodeError as error:
            raise UserError(f"--host {host}: no such address") from error
        yield listening


def start_log(debug: bool) -> None:
    """Send what the service says to standard error, a line each; tracebacks only with `debug`."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # forms that are no forms
    from violence_detection.runtime.logs import CONTROL_CHARACTERS

    class Line(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            if not debug:
                record.exc_info = record.exc_text = None
            return super().format(record).translate(CONTROL_CHARACTERS)

    screen = logging.StreamHandler()
    screen.setFormatter(Line("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("violence_detection", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [screen], False
        logger.setLevel(level)


async def answer(service: "Service", listening: socket.socket, drain: float) -> int:
    """Answer requests until a signal tells to end, and those taken in till then; return 0.

    Args:
        listening: is bound.
        drain: seconds that the last ones have.

    Raises:
        RunError: the networks cannot be made.
    """
    import uvicorn

    from violence_detection.serving.app import make_app

    class Server(uvicorn.Server):
        """Leaves the signals alone: it would stop listening at once."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        proxy_headers=False,  # whoever asks could write into the log what they like
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=LAST_ANSWERS,
    )
    server = Server(config)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    serving = asyncio.create_task(server.serve([listening]))
    told_to_end = asyncio.create_task(told.wait())
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.02)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log.info("listening on http://%s:%d, warming up", shown, port)
        await asyncio.wait(
            (service.warm_up, told_to_end, serving), return_when=asyncio.FIRST_COMPLETED
        )
        if service.warm_up.done():
            service.warm_up.result()
            log.info("ready: %s", service.detector.name)
            await asyncio.wait((told_to_end, serving), return_when=asyncio.FIRST_COMPLETED)
        service.draining = True
        if service.queue.slots_taken:
            log.info("told to end: %d requests are answered first", service.queue.slots_taken)
        told.clear()  # once more: at once
        deadline = loop.time() + drain
        while service.queue.slots_taken and loop.time() < deadline and not told.is_set():
            await asyncio.sleep(0.02)
        service.stopped.set()
    finally:
        server.should_exit = True
        await serving
        told_to_end.cancel()
    log.info("ended")
    return 0
