"""A content-addressed cache of finished units of work, shared by audits.

An entry is an object `<place>/<name>-<sha256 of its bytes><suffix>` in a folder or an object store. `place` and `name`
are derived from everything that determines the content, so a hit never needs to be compared with its inputs; the hash
in the name tells a damaged object, which is removed, said so, and computed again. docs/reference/store-keys.md lists
the places.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import platformdirs

from unsee.artifacts import disk_errors
from unsee.errors import ArtifactError, InputError

S3 = "s3://"
"""What the address of a cache in an object store begins with."""
SETTING = "run.cache or UNSEE_CACHE"
"""Where a person chooses another cache, for remedies."""

_STATED = re.compile(r"-([0-9a-f]{64})(?:\.[A-Za-z0-9.]+)?$")
_KEY_BYTES, _NAME_BYTES = 800, 255

_log = logging.getLogger(__name__)


class DamagedObject(ArtifactError):
    """The bytes of a stored object are not those that its name or its metadata states."""


class Blobs(Protocol):
    """Named bytes that outlive a process: a folder, or an object store. Keys are `/`-separated, see `check_key`."""

    @property
    def uri(self) -> str:
        """Where they are, for people."""
        ...

    @property
    def readers(self) -> int:
        """How many objects are worth reading at a time."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with `prefix`, sorted."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        ...

    def get(self, key: str) -> bytes | None:
        """The object's bytes, None where there is none; raises `DamagedObject` rather than give wrong ones."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store an object, whole or not at all, in place of the one that was there."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...


class ContentCache:
    """Read and write cache entries in `blobs`, or in the folder that is given instead."""

    def __init__(self, blobs: Blobs | Path) -> None:
        self._blobs = Folder(blobs) if isinstance(blobs, Path) else blobs

    def write(self, place: str, name: str, data: bytes, suffix: str) -> None:
        """Store an entry atomically; an equal one that is there is left alone."""
        key = f"{place}/{name}-{hashlib.sha256(data).hexdigest()}{suffix}"
        if not self._blobs.exists(key):
            self._blobs.put(key, data)

    def read(self, place: str, name: str, suffix: str) -> bytes | None:
        """The entry's bytes; None where there is none, or only damaged ones (which are removed)."""
        return next(self._valid(f"{place}/{name}-", suffix), None)

    def read_all(self, place: str, suffix: str) -> Iterator[bytes]:
        """Every undamaged entry of a place, sorted by name."""
        return self._valid(f"{place}/", suffix)

    def _valid(self, prefix: str, suffix: str) -> Iterator[bytes]:
        keys = [k for k in self._blobs.keys(prefix) if k.endswith(suffix) and "/" not in k.removeprefix(prefix)]
        return (data for data in self._fetched(keys) if data is not None)

    def _fetched(self, keys: Sequence[str]) -> Iterator[bytes | None]:
        """The objects' bytes in order, a few of them ahead of the reader where waiting costs more than memory."""
        ahead = min(self._blobs.readers, len(keys))
        if ahead <= 1:
            yield from map(self._undamaged, keys)
            return
        with ThreadPoolExecutor(ahead) as pool:
            waiting: deque[Future[bytes | None]] = deque()
            for key in keys:
                waiting.append(pool.submit(self._undamaged, key))
                if len(waiting) == ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _undamaged(self, key: str) -> bytes | None:
        try:
            if stated_digest(key) is None:
                problem = "is named without a digest."
                raise DamagedObject(problem, file=f"{self._blobs.uri}/{key}")
            return self._blobs.get(key)
        except DamagedObject as error:
            _log.warning("cache entry %s It is removed and computed again.", error)
            self._blobs.delete(key)
            return None


class Folder:
    """`Blobs` in a folder, which no key leads out of. Names that begin with a dot are not objects."""

    readers = 1

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def uri(self) -> str:
        """The folder's path."""
        return str(self.root)

    def keys(self, prefix: str) -> list[str]:
        """See `Blobs`; symbolic links are neither listed nor followed."""
        head = prefix.rpartition("/")[0]
        top = self.path(head) if head else self.root
        found = []
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(".")]
            paths = (Path(folder, name) for name in files)
            keys = (path.relative_to(self.root).as_posix() for path in paths if not path.is_symlink())
            found += [key for key in keys if key.startswith(prefix) and is_key(key)]
        return sorted(found)

    def exists(self, key: str) -> bool:
        """See `Blobs`."""
        return self.path(key).is_file()

    def get(self, key: str) -> bytes | None:
        """See `Blobs`; the digest is the one in the name."""
        try:
            data = self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        check_digest(self.uri, key, hashlib.sha256(data).hexdigest())
        return data

    def put(self, key: str, data: bytes) -> None:
        """See `Blobs`; raises `EnvironmentProblem` where the disk is full or not writable."""
        with whole_file(self.path(key), SETTING) as part:
            part.write_bytes(data)

    def delete(self, key: str) -> None:
        """See `Blobs`."""
        path = self.path(key)
        with disk_errors(path.parent, SETTING):
            path.unlink(missing_ok=True)

    def path(self, key: str) -> Path:
        """The object's file.

        Raises:
            InputError: not a key, or a symbolic link leads it out of the folder.
        """
        path = self.root / check_key(key)
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise InputError("leads out of the store's folder.", file=path, remedy="Remove the symbolic link.")
        return path


@contextlib.contextmanager
def whole_file(path: Path, setting: str = "--out") -> Iterator[Path]:
    """Yields a file to write, which becomes `path` at the end; if the body raises, nothing is left behind.

    Args:
        setting: see `disk_errors`.

    Raises:
        EnvironmentProblem: the disk is full or not writable.
    """
    # No other writer, in this process or on another machine that shares the folder, has this name; it is no key.
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    with disk_errors(path.parent, setting):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def is_key(text: str) -> bool:
    """Whether `check_key` takes it."""
    parts = text.split("/")
    return (
        text.isprintable()
        and "\\" not in text
        and len(text.encode()) <= _KEY_BYTES
        and all(part and not part.startswith(".") and len(part.encode()) <= _NAME_BYTES for part in parts)
    )


def check_key(key: str) -> str:
    """The key, if it is one: names of printable characters joined by `/`, none empty or beginning with a dot.

    Raises:
        InputError: it is not.
    """
    if not is_key(key):
        problem = f"{key[:100]!r} is not a key."
        remedy = "Keys are relative, printable, at most 800 bytes; no part is empty or begins with a dot."
        raise InputError(problem, field="key", remedy=remedy)
    return key


def stated_digest(key: str) -> str | None:
    """The sha256, hex, in a name like `name-<sha256>.suffix`; None in another one."""
    found = _STATED.search(key)
    return found[1] if found else None


def check_digest(uri: str, key: str, actual: str, noted: str | None = None) -> None:
    """Compare an object's sha256 with the one in its name, and with the one that was noted when it was stored.

    Raises:
        DamagedObject: they differ.
    """
    for stated in (stated_digest(key), noted):
        if stated is not None and stated != actual:
            raise DamagedObject("is damaged: it does not match its sha256.", file=f"{uri}/{key}")


def location(given: str | None) -> str:
    """Where the cache is: `given` (the param `run.cache`), else `UNSEE_CACHE`, else the user's cache folder."""
    return given or os.environ.get("UNSEE_CACHE") or platformdirs.user_cache_dir("unsee")


def local_root(given: str | None) -> Path:
    """The folder for what stays on this machine: the cache, or the user's cache folder where that is in a store."""
    where = location(given)
    return Path(platformdirs.user_cache_dir("unsee") if where.startswith(S3) else where)
