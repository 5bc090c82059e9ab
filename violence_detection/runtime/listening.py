"""Where a server listens, and the names that it has."""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterator, Sequence

from violence_detection.errors import UserError

BACKLOG = 128  # connections that wait to be accepted


@contextlib.contextmanager
def bound_socket(host: str, port: int, setting: str) -> Iterator[socket.socket]:
    """Yield a socket that listens at an address.

    Args:
        host: a name or an address.
        port: 0: any free one.
        setting: what the user has set the two by, with `{host}` and `{port}`, for messages.

    Raises:
        UserError: the address cannot be used, or the port is taken.
    """
    place = setting.format(host=host, port=port)
    with contextlib.ExitStack() as stack:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listening = stack.enter_context(socket.socket(family, kind))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            # At once: two sockets that do not listen may be bound to one address.
            listening.listen(BACKLOG)
        except OSError as error:
            raise UserError(f"{place}: {error.strerror}") from error
        except UnicodeError as error:
            raise UserError(f"{place}: no such address") from error
        yield listening


def url_of(listening: socket.socket) -> str:
    """Return the address that a socket listens at, as a browser takes it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_token(text: str) -> bool:
    """Return whether a text can be sent as a bearer token."""
    return re.fullmatch(r"[!-~]+", text) is not None


def own_names(host: str, allowed: Sequence[str]) -> list[str]:
    """Return the names by which a server may be addressed; any IP address may be used.

    Args:
        host: what it listens on.
        allowed: further names.
    """
    return ["localhost", host, socket.gethostname(), socket.getfqdn(), *allowed]
