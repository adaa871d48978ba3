"""What a user names by an address: a path, or `s3://bucket/prefix`, which is fetched from the store."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unsee.cache import S3
from unsee.errors import InputError
from unsee.params import Params
from unsee.platform.object_store import open_store
from unsee.progress import Progress


def is_remote(address: str) -> bool:
    """Whether an address is not a path."""
    return address.startswith(S3)


@contextlib.contextmanager
def folder_at(address: str, params: Params, field: str) -> Iterator[Path]:
    """The folder at an address; what lies in a store is here as long as the `with` block lasts.

    Args:
        field: the param that names it, for errors.

    Raises:
        InputError: nothing lies there.
        EnvironmentProblem: the store cannot be reached.
    """
    if not is_remote(address):
        yield Path(address)
        return
    with tempfile.TemporaryDirectory() as scratch:
        fetch(address, params, field, Path(scratch))
        yield Path(scratch)


def fetch(address: str, params: Params, field: str, into: Path) -> None:
    """Copy everything below an address in a store into a folder."""
    store = open_store(address, params.store)
    with Progress(f"Fetching {field}", total=len(keys := _keys(address, params, field)), unit="file") as progress:
        for key in keys:
            path = into / key
            path.parent.mkdir(parents=True, exist_ok=True)
            if not store.get_file(key, path):
                problem = "was removed while it was read."
                raise InputError(problem, file=f"{address}/{key}", field=field, remedy="Run it again.")
            progress.advance(1)


def file_at(address: str, params: Params, field: str, into: Path) -> Path:
    """The file at an address; fetched to `into` where it lies in a store."""
    if not is_remote(address):
        return Path(address)
    prefix, _, name = address.rpartition("/")
    if not open_store(prefix, params.store).get_file(name, into):
        raise InputError("is not there.", file=address, field=field, remedy="Name an existing object.")
    return into


def seen_at(address: str, params: Params, field: str) -> Any:
    """What lies at an address in a store: names, sizes and marks, a value that changes when they do."""
    store = open_store(address, params.store)
    found = [store.stat(key) for key in _keys(address, params, field)]
    return [[one.key, one.size, one.etag] for one in found if one is not None]


def _keys(address: str, params: Params, field: str) -> list[str]:
    keys = open_store(address, params.store).keys("")
    if not keys:
        raise InputError("holds nothing.", file=address, field=field, remedy="Name a prefix with objects below it.")
    return keys
