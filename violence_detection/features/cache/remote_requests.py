"""Requests that a cache in a store makes beside plain reading and writing."""

import contextlib
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from violence_detection.errors import UserError
from violence_detection.storage.object_store import RemoteStore, is_store_error, reason_of

log = logging.getLogger(__name__)


def names_in(store: RemoteStore) -> set[str]:
    """Return the names of the objects and folders directly in a store's folder.

    A folder that does not exist is empty.

    Raises:
        UserError: the bucket does not exist, or may not be read.
        RunError: the store does not answer.
    """
    with store.explaining_errors("read"):
        try:
            found = store.request(store.files.ls, store.root, detail=False)
        except FileNotFoundError:
            bucket = store.root.partition("/")[0]  # HDFS has none
            try:
                if bucket:
                    store.request(store.files.info, bucket)
            except FileNotFoundError as error:
                raise UserError(
                    f"{store.flag} {store.url}: bucket {bucket} does not exist: create it first"
                ) from error
            return set()
    names = {path.rstrip("/").rpartition("/")[2] for path in found}
    return names - {store.root.rpartition("/")[2]}  # the marker of an empty folder


def create_object(store: RemoteStore, name: str, data: bytes) -> None:
    """Write an object that must not exist yet.

    S3 and Google Cloud Storage refuse an existing name themselves; other stores are asked first.

    Raises:
        FileExistsError: it exists; also if an earlier try wrote it and only the answer was lost.
    """
    store.request(store.files.pipe_file, store.path_of(name), data, mode="create")


def remove_object(store: RemoteStore, name: str) -> None:
    """Remove an object.

    Raises:
        FileNotFoundError: it does not exist.
    """
    store.request(store.files.rm_file, store.path_of(name))


def written_at(info: dict[str, Any]) -> datetime | None:
    """Return when an object was written, by the store's clock; None if the store does not say.

    Args:
        info: what the store lists of the object.
    """
    for key in ("LastModified", "mtime", "updated", "created"):
        if isinstance(info.get(key), datetime):
            return info[key]
    return None


@contextlib.contextmanager
def tolerating_store_errors(store: RemoteStore, name: str) -> Iterator[None]:
    """Log an error of the store in the block instead of raising it.

    For what repairs itself: a lock expires, and superseded objects are removed the next time.
    """
    try:
        yield
    except Exception as error:
        if not is_store_error(error):
            raise
        log.warning("%s/%s: %s", store.url, name, reason_of(error))
