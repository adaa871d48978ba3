"""A content-addressed cache of finished units of work, shared by audits.

An entry is a file `<place>/<name>-<sha256 of its bytes><suffix>` below the cache's root. `place` and `name` are derived
from everything that determines the content, so a hit never needs to be compared with its inputs; the hash in the
name tells a damaged file, which is removed, said so, and computed again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from unsee.artifacts import disk_errors

_log = logging.getLogger(__name__)


class ContentCache:
    """Read and write cache entries below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, place: str, name: str, data: bytes, suffix: str) -> None:
        """Store an entry atomically; an equal one that is there is left alone."""
        folder = self.root / place
        path = folder / f"{name}-{hashlib.sha256(data).hexdigest()}{suffix}"
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                return
            # The process id keeps two audits that compute the same unit from writing into one file.
            part = folder / f".{path.name}.{os.getpid()}.part"
            try:
                part.write_bytes(data)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def read(self, place: str, name: str, suffix: str) -> bytes | None:
        """The entry's bytes; None where there is none, or only damaged ones (which are removed)."""
        return next(self._valid(self.root / place, f"{name}-", suffix), None)

    def read_all(self, place: str, suffix: str) -> Iterator[bytes]:
        """Every undamaged entry of a place, sorted by name."""
        return self._valid(self.root / place, "", suffix)

    def _valid(self, folder: Path, prefix: str, suffix: str) -> Iterator[bytes]:
        if not folder.is_dir():
            return
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not (path.name.startswith(prefix) and path.name.endswith(suffix)):
                continue
            data = path.read_bytes()
            stated = path.name.removesuffix(suffix)[-64:]
            if hashlib.sha256(data).hexdigest() == stated:
                yield data
            else:
                _log.warning("cache entry %s is damaged: removed, it is computed again", path)
                path.unlink(missing_ok=True)


def default_root() -> Path:
    """The user's cache folder for unsee (`UNSEE_CACHE` overrides it)."""
    given = os.environ.get("UNSEE_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("unsee"))
