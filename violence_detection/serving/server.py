"""The HTTP server of a service: from listening to answering the last requests after a signal."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from violence_detection.errors import RunError, UserError
from violence_detection.inference.detector import Detector
from violence_detection.runtime.listening import url_of
from violence_detection.runtime.logs import CONTROL_CHARACTERS
from violence_detection.serving.app import make_app
from violence_detection.serving.connections import guarded_server, report_seldom
from violence_detection.serving.reloading import Reloader
from violence_detection.serving.service import Service

log = logging.getLogger(__name__)

CLOSING = 2  # seconds that connections have to end once all requests are answered
POLL = 0.02  # seconds


class _OneLine(logging.Formatter):
    """A record as one line without control characters; the traceback only if wanted."""

    def __init__(self, tracebacks: bool):
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self.tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        if not self.tracebacks:
            record.exc_info = record.exc_text = None
        return super().format(record).translate(CONTROL_CHARACTERS)


def start_service_log(debug: bool) -> None:
    """Send the log of the service to standard error.

    Args:
        debug: whether to write the tracebacks of unexpected errors, and FFmpeg's messages.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of malformed forms
    screen = logging.StreamHandler()
    screen.setFormatter(_OneLine(debug))
    own_level = logging.DEBUG if debug else logging.INFO
    for name, level in (("violence_detection", own_level), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [screen], False
        logger.setLevel(level)


async def run_server(
    service: Service,
    listening: socket.socket,
    drain: float,
    load: Callable[[], Detector],
    trial: Sequence[Path] = (),
) -> None:
    """Answer requests until SIGTERM or SIGINT, then those that were accepted until then.

    A second signal ends the server at once. SIGHUP loads the detector anew.

    Args:
        service: answers the requests.
        listening: a bound socket.
        drain: seconds that accepted requests have after the signal.
        load: returns the detector that is in the checkpoint directory now.
        trial: clips that a new detector must be able to predict; none: a drawn one.

    Raises:
        RunError: the networks cannot be made.
    """
    server = guarded_server(make_app(service), service.limits, CLOSING, lifespan="on")
    service.reloader = reloader = Reloader(service, load, trial)
    signalled = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report_seldom(log.error))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled.set)
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(_reload(reloader))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    serving = asyncio.create_task(server.serve([listening]))
    stopping = asyncio.create_task(signalled.wait())
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(POLL)
        log.info("listening on %s, warming up", url_of(listening))
        await asyncio.wait(
            (service.warm_up, stopping, serving), return_when=asyncio.FIRST_COMPLETED
        )
        if service.warm_up.done():
            service.warm_up.result()
            detector = service.detector
            log.info("ready: %s, sha256 %s", detector.name, detector.model_sha256)
            await asyncio.wait((stopping, serving), return_when=asyncio.FIRST_COMPLETED)
        signalled.clear()
        await _drain(service, drain, signalled)
    finally:
        server.should_exit = True
        await serving
        stopping.cancel()
    log.info("stopped")


async def _reload(reloader: Reloader) -> None:
    """Reload after a signal: the log says what came of it."""
    with contextlib.suppress(UserError, RunError):
        await reloader.reload()


async def _drain(service: Service, seconds: float, signalled: asyncio.Event) -> None:
    """Refuse new requests and wait for accepted ones, at most until a further signal."""
    service.draining = True
    if service.pending:
        log.info("stopping; requests still to be answered: %d", service.pending)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while service.pending and loop.time() < deadline and not signalled.is_set():
        await asyncio.sleep(POLL)
    service.stopped.set()
