"""Requests to an object store that a URL names (s3://, gs://, hdfs://).

fsspec and the store's own library do the talking, and find the credentials in their usual ways;
they are only imported when there is a URL.
"""

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from violence_detection.errors import RESUME, RunError, UserError
from violence_detection.settings.constants import STORES

log = logging.getLogger(__name__)

RETRY_WAITS = (1.0, 4.0, 16.0)  # seconds before each retry, on top of the library's own retries
CONNECTIONS = 32  # to S3, at once; botocore's default is 10
LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "s3fs", "requests", "gcsfs", "google", "pyarrow")
PERMANENT = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG)  # a retry fails, too

Result = TypeVar("Result")


class RemoteStore:
    """A folder in an object store.

    Args:
        url: as `settings.values.folder_or_url` returns it.
        flag: the flag that named it, for messages.

    Raises:
        UserError: the store's library is not installed, or the store refuses the request.
        RunError: the store does not answer.
    """

    def __init__(self, url: str, flag: str):
        self.url, self.flag = url, flag
        scheme = url.partition("://")[0]
        try:
            import fsspec

            with self.explaining_errors("read"):
                # No cached listings: another process may change what is there.
                self.files = fsspec.filesystem(
                    scheme, **_options(url), use_listings_cache=False, skip_instance_cache=True
                )
        except ImportError as error:
            raise UserError(
                f"{flag} {url} needs a library that is not installed: "
                f"pip install fsspec {STORES[scheme]}"
            ) from error
        if scheme == "s3":  # s3fs's five retries around botocore's five would take minutes
            self.files.retries = 1
        self.root = self.files._strip_protocol(url).rstrip("/")

    def path_of(self, name: str) -> str:
        """Return a file's full name in the store, from its name relative to the folder."""
        return f"{self.root}/{name}" if name else self.root

    def request(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Return `function(*arguments, **options)`, retried while the store is busy or away.

        Args:
            function: a method of `files`.

        Raises:
            Exception: the last error of fsspec or the store's library (see `is_store_error`).
        """
        for wait in RETRY_WAITS:
            try:
                return function(*arguments, **options)
            except Exception as error:
                if not is_store_error(error) or not is_transient(error):
                    raise
                log.debug("%s: %s; retrying in %g s", self.url, reason_of(error), wait)
            time.sleep(wait)
        return function(*arguments, **options)

    def find(self, name: str = "") -> dict[str, dict[str, Any]]:
        """Return the store's information on each file below a folder.

        Args:
            name: of the folder, relative to this one.

        Returns:
            fsspec's information by file name, relative to this folder; empty if the folder does
            not exist.

        Raises:
            Exception: as `request` does; also if the bucket does not exist.
        """
        try:
            found = self.request(self.files.find, self.path_of(name), detail=True)
        except FileNotFoundError:
            if not name:
                raise
            return {}
        start = len(self.root) + 1
        return {
            path[start:]: info
            for path, info in found.items()
            if info["type"] == "file" and len(path) > start and not path.endswith("/")
        }

    def read(self, name: str) -> bytes:
        """Return a small file's content; raises as `request` does."""
        return self.request(self.files.cat_file, self.path_of(name))

    @contextlib.contextmanager
    def explaining_errors(self, done: str) -> Iterator[None]:
        """Turn the store's errors in the block into errors for the user.

        Args:
            done: the participle in the message, "read" or "written".

        Raises:
            UserError: the store refuses the request, or has no such file or bucket.
            RunError: the store does not answer.
        """
        try:
            yield
        except Exception as error:
            if not is_store_error(error):
                raise
            message = f"{self.flag} {self.url} cannot be {done}: {reason_of(error)}"
            if is_transient(error):
                raise RunError(f"{message}. {RESUME}") from error
            raise UserError(message) from error


def _options(url: str) -> dict[str, Any]:
    """Return the options of a URL's file system: S3's connections, HDFS's server."""
    from fsspec.config import conf
    from fsspec.utils import get_protocol, infer_storage_options

    scheme = get_protocol(url)
    if scheme == "s3":  # the user's own configuration of fsspec takes precedence
        own = conf.get("s3", {}).get("config_kwargs", {})
        return {"config_kwargs": {"max_pool_connections": CONNECTIONS} | own}
    if scheme != "hdfs":
        return {}
    parts = infer_storage_options(url)
    names = {"host": "host", "port": "port", "username": "user"}
    return {option: parts[name] for name, option in names.items() if parts.get(name)}


def is_store_error(error: Exception) -> bool:
    """Return whether fsspec or a store's library raises such errors, rather than a bug here."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in LIBRARIES


def is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed later."""
    if "Credential" in type(error).__name__ or "Profile" in type(error).__name__:
        return False
    return not (
        isinstance(error, FileNotFoundError | PermissionError | FileExistsError)
        or (isinstance(error, OSError) and error.errno in PERMANENT)
        or _is_forbidden(error)
    )


def _is_forbidden(error: Exception) -> bool:
    # gcsfs has no type for it.
    return isinstance(error, PermissionError) or (
        isinstance(error, OSError) and str(error).startswith("Forbidden")
    )


def reason_of(error: Exception) -> str:
    """Return a store's error as one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[0] if lines else type(error).__name__
    if isinstance(error, FileNotFoundError):
        return f"not found ({message})"
    if _is_forbidden(error):
        return f"permission denied ({message})"
    if "Credential" in type(error).__name__:
        return f"no credentials found ({message}); set them up as the store's library expects"
    return message
