"""The manifests of a cache folder in a store: which objects make up which file.

    URL/manifests/00000007.json   the manifest with the highest number is valid
    URL/data/<commit>/…           parts of files, each written once under a name of its own

A manifest is written last, in one request, under a number that must be free: an upload that is cut
off leaves the cache as it was, and of two that began from the same manifest one is refused.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any

from violence_detection.errors import UserError
from violence_detection.features.cache.remote_requests import (
    create_object,
    remove_object,
    written_at,
)
from violence_detection.storage.files import read_json, write_json
from violence_detection.storage.object_store import RemoteStore

log = logging.getLogger(__name__)

MANIFESTS, DATA = "manifests", "data"  # folders in that of the store

Part = dict[str, Any]  # of a file: "object" (its name in the store), "size", "checksum"
Files = dict[str, list[Part]]  # the parts of each file, in order
Manifest = dict[str, Any]  # "version", "commit" and "files"
EMPTY: Manifest = {"version": 0, "files": {}}


class Manifests:
    """The manifests of a folder in a store.

    Args:
        store: the folder.
        scratch: a local folder for temporary files.
    """

    def __init__(self, store: RemoteStore, scratch: Path):
        self.store = store
        self.scratch = scratch
        self._next_version = 1

    def newest(self) -> Manifest:
        """Return the newest intact manifest; `EMPTY` if there is none."""
        names = self._names()
        self._next_version = 1 + max((int(Path(name).stem) for name in names), default=0)
        for name in names:
            manifest = self._read(name)
            if manifest is not None:
                return manifest
        return EMPTY

    def write(self, commit: str, files: Files) -> Manifest | None:
        """Write the manifest that follows the one `newest` returned.

        Args:
            commit: a unique name of the upload.
            files: the parts of all files.

        Returns:
            The manifest; None if another process has written one with this number.
        """
        manifest = {"version": self._next_version, "commit": commit, "files": files}
        name = f"{MANIFESTS}/{self._next_version:08d}.json"
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            path = Path(folder) / "manifest.json"
            write_json(path, manifest)
            data = path.read_bytes()
        if self._names()[:1] > [name]:  # for stores that cannot refuse an existing name
            return None
        try:
            create_object(self.store, name, data)
        except FileExistsError:
            # Also if the answer to the first try was lost.
            existing = self._read(name)
            if existing is None or existing["commit"] != commit:
                return None
        self._next_version += 1
        return manifest

    def remove_superseded(self, manifest: Manifest) -> None:
        """Remove what neither this manifest nor the one before needs.

        The one before may still be being downloaded. Uploads under way that began with this
        manifest have newer parts; all other uploads will be refused.
        """
        names = self._names()
        kept = names[:2]
        needed: set[str] = set()
        for name in kept:
            current = manifest if name == kept[0] else self._read(name)
            for parts in (current or EMPTY)["files"].values():
                needed |= {part["object"] for part in parts}
        since = written_at(self.store.find(MANIFESTS)[kept[0]])
        if since is None:
            return
        superseded = names[2:]
        superseded += [
            name
            for name, info in self.store.find(DATA).items()
            if name not in needed and (written := written_at(info)) and written < since
        ]
        for name in superseded:
            remove_object(self.store, name)

    def _names(self) -> list[str]:
        """Return the names of the manifests, the newest first."""
        return sorted(self.store.find(MANIFESTS), reverse=True)

    def _read(self, name: str) -> Manifest | None:
        """Return a manifest; None if it is incomplete: some stores show a cut-off upload."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            path = Path(folder) / "manifest.json"
            path.write_bytes(self.store.read(name))
            try:
                return read_json(path)
            except UserError:
                log.warning("%s/%s is damaged: using the one before", self.store.url, name)
                return None
