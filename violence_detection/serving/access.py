"""Who may ask a server: by its token, by the name that it is addressed by, from which pages."""

import hmac
import ipaddress
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from violence_detection.serving.problems import Problem

bearer = HTTPBearer(auto_error=False, description="the server's token")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


class Access:
    """The rules for a server's clients; the methods are dependencies of routes.

    Args:
        token: bearer token that requests must have; None: no token is required.
        origins: allowed origins of pages on other sites, as `https://host`.
        hosts: names by which the server may be addressed, beside any IP address; None: all.
    """

    def __init__(
        self,
        token: str | None = None,
        origins: Sequence[str] = (),
        hosts: Sequence[str] | None = None,
    ):
        self.token = token
        self.origins = tuple(origins)
        self.hosts = hosts if hosts is None else frozenset(name.lower() for name in hosts)

    async def require_token(self, credentials: Credentials) -> None:
        """Raise a `Problem` (401) unless a request has the server's token."""
        if self.token is not None and not is_same(
            self.token, credentials.credentials if credentials else None
        ):
            raise Problem(
                401,
                "send the server's token as `Authorization: Bearer TOKEN`",
                {"WWW-Authenticate": "Bearer"},
            )

    async def require_allowed_site(self, request: Request) -> None:
        """Raise a `Problem` (403) for a browser's request from a page of another site.

        Browsers leave `Sec-Fetch-Site` out where the page did not come by https: there the origin
        has to be the host that the request is sent to.
        """
        headers = request.headers
        site, origin, host = (headers.get(key) for key in ("sec-fetch-site", "origin", "host"))
        is_foreign = site in ("cross-site", "same-site")
        if site is None and origin is not None:
            is_foreign = origin.partition("://")[2] != host
        if is_foreign and origin not in self.origins:
            raise Problem(
                403, "requests from pages on other sites are refused (the server's --cors)"
            )

    async def require_allowed_host(self, request: Request) -> None:
        """Raise a `Problem` (421) if the server is addressed by a name that is not its own.

        A page on another site can have its own name point to this server (DNS rebinding); its
        requests bear that name.
        """
        name = _name_of(request.headers.get("host", ""))
        if self.hosts is None or name in self.hosts or _is_address(name):
            return
        raise Problem(421, f"this server is not known by this name (its --allowed-host): {name}")


def is_same(secret: str, given: str | None) -> bool:
    """Return whether a secret was given; compared in constant time."""
    return given is not None and hmac.compare_digest(given.encode(), secret.encode())


def _name_of(host: str) -> str:
    """Return the name or address in a Host header, without its port."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    return name.lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
