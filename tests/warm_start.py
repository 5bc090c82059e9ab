"""Processes that need not import TensorFlow: a server that has imported it forks itself.

The import takes six seconds of a core, and the tests start dozens of processes that kill and are
killed. A fork has its own process id, environment, streams and signals, runs its script as
`__main__` with nothing of this package loaded, and ends as a process that was started does.
"""

import contextlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import IO


class ForkedProcess:
    """A process that runs a Python script, with the interface of `subprocess.Popen`.

    Args:
        command: the script and its arguments.
        env: its environment variables.
        merged: write standard error to `stdout`, too.
        stdout: a file descriptor that standard output is written to; `stdout` is then empty.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        merged: bool = False,
        stdout: int | None = None,
    ):
        self.returncode: int | None = None
        outputs, errors = os.pipe(), None if merged else os.pipe()
        if stdout is not None:
            os.dup2(stdout, outputs[1])
        self._ended, ended = os.pipe()
        written = [ended, outputs[1], errors[1] if errors else outputs[1]]
        request = json.dumps({"command": list(command), "env": dict(env)}).encode()
        server = _server()
        server.sendall(len(request).to_bytes(4))
        socket.send_fds(server, [b"f"], written)
        server.sendall(request)
        self.pid = int.from_bytes(_receive(server, 4))
        for descriptor in set(written):
            os.close(descriptor)
        self.stdout: IO[str] = os.fdopen(outputs[0])
        self.stderr: IO[str] | None = os.fdopen(errors[0]) if errors else None

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit status, which is that of a signal times -1."""
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._ended, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired("a forked process", timeout or 0)
            self.returncode = int(os.read(self._ended, 16))
            os.close(self._ended)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return what is left of standard output and standard error."""
        with ThreadPoolExecutor(2) as readers:
            streams = [stream for stream in (self.stdout, self.stderr) if stream is not None]
            reading = [
                readers.submit(lambda s=stream: "" if s.closed else s.read()) for stream in streams
            ]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            finally:
                read = [each.result() for each in reading]
        for stream in streams:
            stream.close()
        return read[0], read[1] if len(read) > 1 else ""

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)


@cache
def _server() -> socket.socket:
    """Start the server, which ends with this process; return the connection."""
    ours, theirs = socket.socketpair()
    with theirs:
        descriptor = theirs.fileno()
        subprocess.Popen([sys.executable, __file__, str(descriptor)], pass_fds=[descriptor])
    return ours


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def serve(connection: socket.socket) -> list[str]:
    """Fork for each request, until there is nobody to make one; in a fork, return its command."""
    running: dict[int, tuple[int, int]] = {}  # process id and status pipe, by pidfd
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in running:
                    pid, ended = running.pop(key.fd)
                    selector.unregister(key.fd)
                    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with contextlib.suppress(BrokenPipeError):
                        os.write(ended, str(status).encode())
                    os.close(ended)
                    os.close(key.fd)
                    continue
                try:
                    size = int.from_bytes(_receive(connection, 4))
                except EOFError:
                    sys.exit()
                _, (ended, output, errors), _, _ = socket.recv_fds(connection, 1, 3)
                request = json.loads(_receive(connection, size))
                pid = os.fork()
                if not pid:
                    for descriptor in (ended, *running, *(e for _, e in running.values())):
                        os.close(descriptor)
                    break
                os.close(output)
                os.close(errors)
                pidfd = os.pidfd_open(pid)
                running[pidfd] = pid, ended
                selector.register(pidfd, selectors.EVENT_READ)
                connection.sendall(pid.to_bytes(4))
            else:
                continue
            break
    connection.close()
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.close(output)
    os.close(errors)
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None  # which the imports may have chosen, in the environment before
    return request["command"]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests end it
    import keras  # noqa: F401
    import tensorflow as tf  # noqa: F401

    sys.argv = serve(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
