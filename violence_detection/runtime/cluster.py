"""The workers of a run: how they exchange values, and how all end if one is lost.

A run over several hosts is the same command on each. TensorFlow's coordination service, which runs
in the chief's process, stores the values that they exchange, and its heartbeats show who is lost.
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

START_WAIT = 600.0  # seconds until all workers must have started: a cluster may pull images first
CONNECT_EVERY = 0.2  # seconds between two attempts to reach the others
JOIN_WAIT = 120.0  # seconds that TensorFlow may take to connect workers that have all started
HEARTBEAT = 10.0  # seconds without a heartbeat after which a worker is lost
POLL_EVERY = 1.0  # seconds
GRACE = 5.0  # seconds that a process has to end by itself once another one is lost
LOG_WAIT_AFTER = 5.0  # seconds of waiting after which it is logged

PACKAGE = Path(violence_detection.__file__).parent
RESUME_ON_EACH_HOST = "Run the same command again on each host to resume."
ENDED = "ended"  # the key under which the first worker that fails stores its error

Value = TypeVar("Value")


@functools.cache
def code_checksums(*scripts: Path) -> dict[str, str]:
    """Return a checksum of each source file of the package, by its path within it.

    Args:
        scripts: further files, listed by their names.
    """
    files = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    files |= {path.name: path for path in scripts}
    return {
        name: hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
        for name, path in files.items()
    }


def shared_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that must be the same on all hosts, by name, as JSON values."""
    values = settings.as_json()
    return {name: value for name, value in values.items() if name not in DIFFERS_BY_HOST}


class Cluster:
    """The workers of a run. With one worker, its methods return at once.

    At the end of its block, each waits for all others. A worker that leaves it with an error
    makes the others end with that error. A worker that is lost ends the others within about
    `heartbeat + GRACE` seconds.

    Args:
        worker: this one.
        launcher: "tf-config" or "slurm": what defines the workers' addresses.
        start_wait: seconds that the other workers may take to start.
        heartbeat: seconds without a heartbeat after which a worker is lost.

    Raises:
        UserError: the environment is not as the launcher would set it.
    """

    def __init__(
        self,
        worker: Worker,
        launcher: str = "tf-config",
        start_wait: float = START_WAIT,
        heartbeat: float = HEARTBEAT,
    ):
        self.worker = worker
        self.addresses = worker_addresses(worker, launcher)
        self.start_wait = start_wait
        self.heartbeat = heartbeat
        self._service: Any = None
        self._uses: Counter[str] = Counter()  # of each key, which exist only once
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
            except BaseException as end_error:  # the other workers are waited for here, too
                self.__exit__(type(end_error), end_error, None)
                raise
            return
        cut_off = self._lost.is_set() or self._is_connection_error(error)
        if cut_off:
            # Heartbeats show who is lost. A network error may name one that ended as a result.
            self._lost.wait(self.heartbeat + GRACE)
        else:
            self._publish_error(error)
        self._left.set()
        self._linger()
        if cut_off:
            raise RunError(
                self._loss or f"the workers cannot reach each other. {RESUME_ON_EACH_HOST}"
            ) from error

    def name_of(self, number: int) -> str:
        """Return a worker's name for messages, with its address."""
        name = "the chief, worker 0" if number == 0 else f"worker {number}"
        return f"{name} of {self.worker.count} ({self.addresses[number]})"

    def join(self, gpus: int) -> "tf.distribute.Strategy":
        """Wait for all workers and return a strategy over them.

        To be called before TensorFlow has computed anything.

        Args:
            gpus: number of GPUs of this worker, each of them a replica; 0: its CPU is one replica.

        Raises:
            RunError: this worker's address cannot be used, or another worker did not start.
        """
        import tensorflow as tf
        from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
        from tensorflow.python.eager import context  # the service has no public name

        distribute = tf.distribute
        resolver = distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({JOB: self.addresses}),
            task_type=JOB,
            task_id=self.worker.number,
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
            heartbeat_timeout_in_ms=int(1000 * self.heartbeat),
            coordinated_jobs=[CoordinatedJob(name=JOB, num_tasks=self.worker.count)],
        )
        self.wait_for_workers()
        with self._bounded_connecting():
            strategy = distribute.MultiWorkerMirroredStrategy(resolver, options)
        # TensorFlow has replaced our handler of SIGTERM by one that does not end the run.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        self._service = service
        threading.Thread(target=self._watch, name="workers", daemon=True).start()
        return strategy

    @contextlib.contextmanager
    def _bounded_connecting(self) -> Iterator[None]:
        """End the process if the block takes longer than `JOIN_WAIT`.

        TensorFlow waits in it without a timeout, and no code of this process runs: only the
        timer of a traceback can end it, and the reason has to be logged before.
        """
        import tensorflow as tf

        log.info(
            "all %d workers have started; connecting them.\n"
            "If one is lost now, this process ends within %.0f s, with a traceback.\n%s",
            *(self.worker.count, JOIN_WAIT, RESUME_ON_EACH_HOST),
        )
        faulthandler.dump_traceback_later(JOIN_WAIT, exit=True)
        try:
            yield
        except tf.errors.OpError as error:
            own = self.name_of(self.worker.number)
            reason = error.message.splitlines()[0]
            raise RunError(f"{own} cannot join the others: {reason}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()

    def wait_for_workers(self) -> None:
        """Wait until the address of every other worker accepts connections.

        Raises:
            RunError: this worker's address cannot be used, or another worker did not start within
                `start_wait` seconds.
        """
        own = self.name_of(self.worker.number)
        log.info("%s waits for the others, at most %.0f minutes", own, self.start_wait / 60)
        missing = set(range(self.worker.count)) - {self.worker.number}
        began, logged = time.monotonic(), False
        try:
            listening = _listen(self.addresses[self.worker.number])
        except OSError as error:
            raise RunError(f"{own}: cannot listen on its port: {error.strerror}") from error
        with listening:
            while True:
                raise_if_interrupted()
                missing = {number for number in missing if not _accepts(self.addresses[number])}
                if not missing:
                    return
                waited = time.monotonic() - began
                names = " and ".join(map(self.name_of, sorted(missing)))
                if waited > self.start_wait:
                    raise RunError(
                        f"{names} did not start within {self.start_wait:.0f} s: start the command "
                        "on each host, and check that the hosts can reach each other"
                    )
                if not logged and waited > LOG_WAIT_AFTER:
                    log.info("waiting for %s", names)
                    logged = True
                time.sleep(CONNECT_EVERY)

    def gather(self, what: str, value: Value) -> list[Value]:
        """Return every worker's value, by number; waits for all of them.

        All workers must make the same calls in the same order.

        Args:
            what: the name of the value, also shown in the log when waiting takes long.
            value: this worker's, a JSON value.

        Raises:
            RunError: a worker is lost.
        """
        if self.worker.count == 1:
            return [value]
        key = self._next_key(what)
        self._publish(f"{key}/{self.worker.number}", value)
        return [self._receive(f"{key}/{n}", what, n) for n in range(self.worker.count)]

    def broadcast(self, what: str, value: Value) -> Value:
        """Return the chief's value, whatever this worker's own is; waits for it.

        Args and errors are those of `gather`.
        """
        if self.worker.count == 1:
            return value
        key = self._next_key(what)
        if self.worker.is_chief:
            self._publish(key, value)
            return value
        return self._receive(key, what, 0)

    def gather_lines(self, lines: list[str]) -> list[str]:
        """Return the lines of all workers, each with the worker's name if there are several."""
        if self.worker.count == 1:
            return lines
        gathered = self.gather("its devices", lines)
        return [f"{self.name_of(n)}: {line}" for n, lines in enumerate(gathered) for line in lines]

    @contextlib.contextmanager
    def chief_first(self, what: str) -> Iterator[dict[str, Any]]:
        """Let the chief run the block before the others do.

        Args:
            what: the name of the block, shown in the log when waiting takes long.

        Yields:
            A dictionary of JSON values: the chief fills it, the others get it.
        """
        values: dict[str, Any] = {}
        if not self.worker.is_chief:
            values = self.broadcast(what, values)
        yield values
        if self.worker.is_chief:
            self.broadcast(what, values)

    def require_same(self, values: Mapping[str, Any]) -> None:
        """Raise `UserError` if a worker's values differ from the chief's, with both of them.

        Args:
            values: JSON values, or dictionaries of them, by name.
        """
        chiefs, *others = self.gather(", ".join(values), dict(values))
        for number, theirs in enumerate(others, start=1):
            if difference := first_difference(chiefs, theirs):
                raise UserError(
                    f"{self.name_of(number)} differs from the chief in {difference}. All workers "
                    "need the same code, settings, clips and weights"
                )

    def _next_key(self, what: str) -> str:
        self._uses[what] += 1
        return f"{what}/{self._uses[what]}"

    def _publish(self, key: str, value: Any) -> None:
        self._service.set_config_key_value(key, json.dumps(value))

    def _receive(self, key: str, what: str, number: int) -> Any:
        """Return a worker's value; waits as long as the worker is not lost."""
        import tensorflow as tf

        began, logged = time.monotonic(), False
        while True:
            raise_if_interrupted()
            if self._lost.is_set():
                raise RunError(self._loss)
            with contextlib.suppress(tf.errors.DeadlineExceededError):
                return json.loads(self._service.get_config_key_value(key, int(1000 * POLL_EVERY)))
            if not logged and time.monotonic() - began > LOG_WAIT_AFTER:
                log.info("waiting for %s: %s", self.name_of(number), what)
                logged = True

    def _watch(self) -> None:
        """End this process if another one is lost or has failed."""
        while not self._left.wait(POLL_EVERY):
            if loss := self._find_loss():
                self._loss = loss
                self._lost.set()
                # A thread that waits for the others gets an error and ends the run with `_loss`.
                if not self._left.wait(GRACE):
                    self._linger()
                    os._exit(explain(loss, 1))
                return

    def _find_loss(self) -> str | None:
        """Return a message about the worker that is lost or has failed; None if there is none."""
        import tensorflow as tf

        try:
            ended = json.loads(self._service.get_config_key_value(ENDED, 1))
            name = self.name_of(ended["worker"])
            return f"{name} has ended: {ended['why']}\n{RESUME_ON_EACH_HOST}"
        except tf.errors.DeadlineExceededError:
            pass
        except tf.errors.OpError:
            return self._lost_message(0)
        try:
            states = self._service.get_task_states([(JOB, self.worker.count)])
        except tf.errors.OpError:
            return self._lost_message(0)
        lost = next((number for number, state in enumerate(states) if state is not None), None)
        return None if lost is None else self._lost_message(lost)

    def _lost_message(self, number: int) -> str:
        return (
            f"{self.name_of(number)} is lost: its process was killed, or its host or network "
            f"is down.\nFinished work is kept. {RESUME_ON_EACH_HOST}"
        )

    @staticmethod
    def _is_connection_error(error: BaseException) -> bool:
        """Return whether TensorFlow may have raised the error because a worker is lost."""
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

    def _publish_error(self, error: BaseException) -> None:
        import tensorflow as tf

        why = (
            SIGNAL_NAMES[error.number]
            if isinstance(error, Interrupted)
            else str(error) or repr(error)
        )
        with contextlib.suppress(tf.errors.OpError):  # another was first, or the chief is lost
            self._publish(ENDED, {"worker": self.worker.number, "why": why})

    def _linger(self) -> None:
        """Keep the chief's process alive for a moment: the others ask it who is lost."""
        if self.worker.is_chief:
            time.sleep(2 * POLL_EVERY + 1)

    def _end_together(self) -> None:
        """Wait for every worker's end; the chief waits until all others know of it."""
        import tensorflow as tf

        # One that left sooner would be lost to those that still train: TensorFlow can take up to a
        # minute to delete the iterator of a distributed dataset.
        self.gather("end of the run", None)
        self._left.set()
        with contextlib.suppress(tf.errors.OpError):
            self._publish(f"has left/{self.worker.number}", None)
            if self.worker.is_chief:
                for number in range(1, self.worker.count):
                    self._service.get_config_key_value(
                        f"has left/{number}", int(1000 * 2 * self.heartbeat)
                    )


def _listen(address: str) -> socket.socket:
    """Return a socket that accepts connections at an address's port until it is closed."""
    port = int(address.rpartition(":")[2])
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except OSError:
        return False


def first_difference(chiefs: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return a description of the first value that differs from the chief's, with both; or None."""
    for name in chiefs:
        if theirs[name] != chiefs[name]:
            return _difference(name, chiefs[name], theirs[name])
    return None


def _difference(name: str, chiefs: Any, theirs: Any) -> str:
    """Return a description of what differs: of dictionaries, the first entry that does."""
    if not isinstance(chiefs, dict):
        return f"{name}: it has {theirs}, the chief has {chiefs}"
    names = [n for n in {**chiefs, **theirs} if chiefs.get(n) != theirs.get(n)]
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    first = names[0]
    return f"{name}, {first}{more}: it has {theirs.get(first)}, the chief has {chiefs.get(first)}"
