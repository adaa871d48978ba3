"""How records are split into shards: by their id, so that a shard does not depend on the order of the set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def shard_of(record: str, shards: int, *, within: int = 1) -> int:
    """The shard, in [0, shards), of a record id (whose first 16 hex digits are uniform).

    Args:
        within: number of parts that the records were split into before: each of them is split evenly too.
    """
    return int(record[:16], 16) // within % shards


def split_records(records: Sequence[str], shards: int, *, within: int = 1) -> list[list[str]]:
    """The records of each shard, each in the given order; empty shards are left out."""
    parts: list[list[str]] = [[] for _ in range(shards)]
    for record in records:
        parts[shard_of(record, shards, within=within)].append(record)
    return [part for part in parts if part]


def shard_numbers(records: Iterable[object], shards: int, *, within: int = 1) -> np.ndarray:
    """`shard_of` every record id (or Arrow scalar of one), int64."""
    return np.fromiter((shard_of(str(record), shards, within=within) for record in records), dtype=np.int64)
