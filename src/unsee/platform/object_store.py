"""Where things are kept that several machines share: a folder, or a bucket of any S3.

Keys are checked by `unsee.cache.check_key`. An object whose key states a digest (`name-<sha256>.suffix`) is compared
with it whenever it is read; in S3 every object carries its sha256 in its metadata too.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unsee.cache import S3, Blobs
from unsee.credentials import without_credentials
from unsee.errors import EnvironmentProblem, InputError
from unsee.params import StoreParams


@dataclass(frozen=True)
class Stored:
    """What a store says about an object: its bytes' number, their sha256 where it was noted, and S3's own mark."""

    key: str
    size: int
    sha256: str | None
    etag: str | None = None


class ObjectStore(Blobs, Protocol):
    """Objects by key; every method raises `EnvironmentProblem` where the store cannot be used, with a remedy."""

    def stat(self, key: str) -> Stored | None:
        """What is known of an object without reading it; None where there is none."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Store a file of any size, whole or not at all."""
        ...

    def get_file(self, key: str, path: Path) -> bool:
        """Write an object to `path`, whole or not at all; False where there is none. `DamagedObject` as in `get`."""
        ...


def open_store(uri: str, settings: StoreParams) -> ObjectStore:
    """The store at a folder's path or `s3://bucket/prefix`. No server is asked yet.

    Args:
        settings: how S3 is reached; see `platform.s3_settings` for what stands in for a null.

    Raises:
        InputError: the address or a setting cannot be used.
    """
    if uri.startswith(S3):
        from unsee.platform.s3_store import S3Store

        return S3Store.open(uri, settings)
    if "://" in uri or uri.startswith(S3[:3]):
        problem = f"'{without_credentials(uri)}' is neither a folder nor s3://bucket/prefix."
        raise InputError(problem, field="run.cache", remedy="Write s3://bucket/prefix, or a path.")
    from unsee.platform.local_store import LocalStore

    return LocalStore(Path(uri))


def try_store(uri: str, settings: StoreParams) -> None:
    """Write, find, read and delete a small object.

    Raises:
        UnseeError: that is not possible, and why.
    """
    store = open_store(uri, settings)
    key = f"doctor/{uuid.uuid4().hex}"
    store.put(key, key.encode())
    try:
        if store.keys(key) != [key] or store.get(key) != key.encode():
            problem = "does not give back what was just stored."
            raise EnvironmentProblem(problem, file=store.uri, remedy="Use a store that is consistent, as S3 is.")
    finally:
        store.delete(key)
