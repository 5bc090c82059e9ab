"""The workers of a run: which one this process is, what they tell each other, who is lost.

A run over several hosts is the same command on each. TensorFlow's coordination service, which the
chief's process hosts, carries what they tell each other, and its heartbeats say who is lost.
"""

import contextlib
import faulthandler
import functools
import hashlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import violence_detection
from violence_detection.errors import RunError, UserError
from violence_detection.runtime.interrupts import (
    SIGNAL_NAMES,
    Interrupted,
    explain,
    raise_if_interrupted,
)
from violence_detection.runtime.worker import JOB, Worker, worker_addresses
from violence_detection.settings.schema import DIFFERS_BY_HOST, Settings

if TYPE_CHECKING:
    import tensorflow as tf

log = logging.getLogger(__name__)

START_WAIT = 600.0  # seconds until all workers must be there: a cluster may pull images first
MEET_EVERY = 0.2  # seconds between two looks at who is there
JOIN_WAIT = 120.0  # seconds that TensorFlow may take to connect those that are there
HEARTBEAT = 10.0  # seconds without a sign of life, after which a worker is lost
LOOK_EVERY = 1.0  # seconds
GRACE = 5.0  # seconds that a process has to end by itself once another one is lost
SAY_AFTER = 5.0  # seconds of a wait, after which the log says what for

PACKAGE = Path(violence_detection.__file__).parent
RESUME_ON_EACH_HOST = "Run the same command again on each host to resume."
ENDED = "ended"  # key under which the first worker that fails says why


Value = TypeVar("Value")


@functools.cache
def code_checksums() -> dict[str, str]:
    """Return a checksum of each source file of this program, by its name."""
    return {
        path.relative_to(PACKAGE).as_posix(): hashlib.blake2b(
            path.read_bytes(), digest_size=8
        ).hexdigest()
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def shared_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that have to be the same on all hosts, by name."""
    values = settings.as_json()
    return {name: value for name, value in values.items() if name not in DIFFERS_BY_HOST}


class Cluster:
    """The workers of a run, and what they tell each other. Of one worker, it does nothing.

    On leaving, the others wait for the chief. A worker that leaves with an error says so to the
    others, which end with it. A worker that is lost ends the others within about
    `HEARTBEAT + GRACE` seconds.

    Args:
        worker: this one.
        how: as `--cluster` says it, where the addresses come from.
    """

    def __init__(self, worker: Worker, how: str = "tf-config"):
        self.worker = worker
        self.how = how
        self.addresses: list[str] = []
        self._service: Any = None
        self._times: Counter[str] = Counter()  # that each thing was told
        self._left = threading.Event()
        self._lost = threading.Event()
        self._loss = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self._service is None:
            return
        if error is None:
            try:
                self._end_together()
            except BaseException as of_the_end:  # here, too, the others are waited for
                self.__exit__(type(of_the_end), of_the_end, None)
                raise
            return
        cut_off = self._lost.is_set() or self._says_lost(error)
        if cut_off:
            # Heartbeats say who is lost. What the network says may name one that ended of it.
            self._lost.wait(HEARTBEAT + GRACE)
        else:
            self._say_why(error)
        self._left.set()
        self._linger()
        if cut_off:
            raise RunError(
                self._loss or f"the workers cannot reach each other. {RESUME_ON_EACH_HOST}"
            ) from error

    def name_of(self, number: int) -> str:
        """Return a worker in words, with its address."""
        who = "the chief, worker 0" if number == 0 else f"worker {number}"
        return f"{who} of {self.worker.count} ({self.addresses[number]})"

    def join(self, gpus: int) -> "tf.distribute.Strategy":
        """Return a strategy over all workers, with a replica for each GPU, or one on the CPU.

        To be called before TensorFlow has computed anything. Waits for all workers.

        Args:
            gpus: of this worker; 0: it computes on its CPU.

        Raises:
            RunError: the address cannot be used.
        """
        import tensorflow as tf
        from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
        from tensorflow.python.eager import context  # the service has no public name

        number, count = self.worker.number, self.worker.count
        self.addresses = worker_addresses(self.worker, self.how)
        distribute = tf.distribute
        resolver = distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({JOB: self.addresses}),
            task_type=JOB,
            task_id=number,
            rpc_layer="grpc",
            num_accelerators={"GPU": gpus},
        )
        communication = distribute.experimental.CommunicationImplementation
        options = distribute.experimental.CommunicationOptions(
            implementation=communication.NCCL if gpus else communication.RING
        )
        service = context.context()
        service.configure_coordination_service(
            "standalone",
            service_leader=f"/job:{JOB}/replica:0/task:0",
            heartbeat_timeout_in_ms=int(1000 * HEARTBEAT),
            coordinated_jobs=[CoordinatedJob(name=JOB, num_tasks=count)],
        )
        self._meet()
        # From here on TensorFlow waits, for ever and with nothing of this process running, so that
        # what the end would be has to be said before.
        log.info(
            "all %d workers are there; TensorFlow connects them. If one is lost now, this process "
            "ends within %.0f s, with a traceback. %s",
            *(count, JOIN_WAIT, RESUME_ON_EACH_HOST),
        )
        faulthandler.dump_traceback_later(JOIN_WAIT, exit=True)
        try:
            strategy = distribute.MultiWorkerMirroredStrategy(resolver, options)
        except tf.errors.OpError as error:
            raise RunError(
                f"{self.name_of(number)} cannot join the others: {error.message.splitlines()[0]}"
            ) from error
        finally:
            faulthandler.cancel_dump_traceback_later()
        # TensorFlow has put its own handler in the place of ours: it would note SIGTERM and go on.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        self._service = service
        threading.Thread(target=self._watch, name="workers", daemon=True).start()
        return strategy

    def _meet(self) -> None:
        """Wait until every worker's address answers.

        Raises:
            RunError: this worker's own address cannot be used, or another one's does not answer.
        """
        own = self.name_of(self.worker.number)
        log.info("%s waits for the others, at most %.0f minutes", own, START_WAIT / 60)
        missing = set(range(self.worker.count)) - {self.worker.number}
        began, said = time.monotonic(), False
        try:
            listening = _listen(self.addresses[self.worker.number])
        except OSError as error:
            raise RunError(f"{own}: its port cannot be used: {error.strerror}") from error
        with listening:
            while True:
                raise_if_interrupted()
                missing = {number for number in missing if not _answers(self.addresses[number])}
                if not missing:
                    return
                waited = time.monotonic() - began
                names = " and ".join(map(self.name_of, sorted(missing)))
                if waited > START_WAIT:
                    raise RunError(
                        f"{names} did not come within {START_WAIT:.0f} s: start the command on "
                        "each host, and see that they reach each other"
                    )
                if not said and waited > SAY_AFTER:
                    log.info("waiting for %s", names)
                    said = True
                time.sleep(MEET_EVERY)

    def all_of(self, what: str, value: Value) -> list[Value]:
        """Return every worker's value, in the order of their numbers; waits for them.

        Args:
            what: is told, in words for the log. All workers tell the same things in one order.
            value: this worker's, as JSON has it.
        """
        if self.worker.count == 1:
            return [value]
        key = self._next_key(what)
        self._tell(f"{key}/{self.worker.number}", value)
        return [self._hear(f"{key}/{n}", what, n) for n in range(self.worker.count)]

    def from_chief(self, what: str, value: Value) -> Value:
        """Return the chief's value, whatever this worker's own is; waits for it."""
        if self.worker.count == 1:
            return value
        key = self._next_key(what)
        if self.worker.is_chief:
            self._tell(key, value)
            return value
        return self._hear(key, what, 0)

    def lines_of_all(self, lines: list[str]) -> list[str]:
        """Return the lines of all workers, with whose they are; of one worker, as they are."""
        if self.worker.count == 1:
            return lines
        of_all = self.all_of("its devices", lines)
        return [f"{self.name_of(n)}: {line}" for n, lines in enumerate(of_all) for line in lines]

    @contextlib.contextmanager
    def chief_first(self, what: str) -> Iterator[dict[str, Any]]:
        """Let the chief do the block, and the others when it has done it.

        Yields:
            What the chief leaves for the others; empty for the chief.
        """
        told: dict[str, Any] = {}
        if not self.worker.is_chief:
            told = self.from_chief(what, told)
        yield told
        if self.worker.is_chief:
            self.from_chief(what, told)

    def require_same(self, about: Mapping[str, Any]) -> None:
        """Raise `UserError` naming a worker that differs from the chief, and in what.

        Args:
            about: by name, values or dictionaries of them, as JSON has them.
        """
        chiefs, *others = self.all_of(", ".join(about), dict(about))
        for number, theirs in enumerate(others, start=1):
            for name in about:
                if theirs[name] != chiefs[name]:
                    raise UserError(
                        f"{self.name_of(number)} differs from the chief in "
                        f"{_difference(name, chiefs[name], theirs[name])}. All workers need the "
                        "same code, settings, clips and weights"
                    )

    def _next_key(self, what: str) -> str:
        self._times[what] += 1
        return f"{what}/{self._times[what]}"

    def _tell(self, key: str, value: Any) -> None:
        self._service.set_config_key_value(key, json.dumps(value))

    def _hear(self, key: str, what: str, number: int) -> Any:
        """Return what a worker tells; waits for as long as it lives."""
        import tensorflow as tf

        began, said = time.monotonic(), False
        while True:
            raise_if_interrupted()
            if self._lost.is_set():
                raise RunError(self._loss)
            with contextlib.suppress(tf.errors.DeadlineExceededError):
                return json.loads(self._service.get_config_key_value(key, int(1000 * LOOK_EVERY)))
            if not said and time.monotonic() - began > SAY_AFTER:
                log.info("waiting for %s: %s", self.name_of(number), what)
                said = True

    def _watch(self) -> None:
        """End this process if another one is lost or has failed."""
        while not self._left.wait(LOOK_EVERY):
            if loss := self._find_loss():
                self._loss = loss
                self._lost.set()
                # A thread that waits for the others gets an error of its own, and says this.
                if not self._left.wait(GRACE):
                    self._linger()
                    os._exit(explain(loss, 1))
                return

    def _find_loss(self) -> str | None:
        import tensorflow as tf

        try:
            told = json.loads(self._service.get_config_key_value(ENDED, 1))
            return f"{self.name_of(told['worker'])} has ended: {told['why']}\n{RESUME_ON_EACH_HOST}"
        except tf.errors.DeadlineExceededError:
            pass
        except tf.errors.OpError:
            return self._gone(0)
        try:
            states = self._service.get_task_states([(JOB, self.worker.count)])
        except tf.errors.OpError:
            return self._gone(0)
        lost = next((number for number, state in enumerate(states) if state is not None), None)
        return None if lost is None else self._gone(lost)

    def _gone(self, number: int) -> str:
        return (
            f"{self.name_of(number)} is gone: it was killed, or its host or network is down. "
            f"Nothing that was finished is lost. "
            f"{RESUME_ON_EACH_HOST}"
        )

    @staticmethod
    def _says_lost(error: BaseException) -> bool:
        """Return whether an error is what TensorFlow makes of a worker that is lost."""
        import tensorflow as tf

        kinds = tf.errors
        return isinstance(
            error,
            kinds.UnavailableError
            | kinds.AbortedError
            | kinds.CancelledError
            | kinds.DeadlineExceededError
            | kinds.FailedPreconditionError
            | kinds.InternalError,
        )

    def _say_why(self, error: BaseException) -> None:
        import tensorflow as tf

        why = (
            SIGNAL_NAMES[error.number]
            if isinstance(error, Interrupted)
            else str(error) or repr(error)
        )
        with contextlib.suppress(tf.errors.OpError):  # another one was first, or the chief is gone
            self._tell(ENDED, {"worker": self.worker.number, "why": why})

    def _linger(self) -> None:
        """Stay for a moment, if the others ask this process who is lost."""
        if self.worker.is_chief:
            time.sleep(2 * LOOK_EVERY + 1)

    def _end_together(self) -> None:
        """Wait for the chief's end; the chief waits until all have heard of it."""
        import tensorflow as tf

        self.from_chief("the end", None)
        self._left.set()
        with contextlib.suppress(tf.errors.OpError):
            self._tell(f"has left/{self.worker.number}", None)
            if self.worker.is_chief:
                for number in range(1, self.worker.count):
                    self._service.get_config_key_value(
                        f"has left/{number}", int(1000 * 2 * HEARTBEAT)
                    )


def _listen(address: str) -> socket.socket:
    """Return a socket that answers at an address's port until it is closed."""
    port = int(address.rpartition(":")[2])
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except OSError:
        return False


def _difference(name: str, chiefs: Any, theirs: Any) -> str:
    """Return in words what differs: of dictionaries, the first entry that does."""
    if not isinstance(chiefs, dict):
        return f"{name}: it has {theirs}, the chief {chiefs}"
    names = [n for n in {**chiefs, **theirs} if chiefs.get(n) != theirs.get(n)]
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    first = names[0]
    return f"{name}, {first}{more}: it has {theirs.get(first)}, the chief {chiefs.get(first)}"
