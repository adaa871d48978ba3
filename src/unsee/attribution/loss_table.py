"""Loss tables: as an artifact, and as cache entries that are looked up record by record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unsee import artifacts
from unsee.artifacts import digest_of
from unsee.attribution.grid import Grid
from unsee.cache import ContentCache
from unsee.models.encoded_set import Entry
from unsee.records.sharding import shard_of
from unsee.versions import ENCODING_VERSION, LOSS_VERSION, NOISE_VERSION

KIND = "LossTable"
SCHEMA_VERSION = 1
_SUFFIX = ".parquet"


class LossTable:
    """Losses per (record, caption, flip) and (timestep, draw) at one set of weights."""

    def __init__(self, folder: Path, header: artifacts.Header) -> None:
        self.folder = folder
        self.digest = header.digest
        self.meta = header.meta
        table = pq.read_table(folder / artifacts.LOSSES)
        self.keys: list[str] = table.column("entry").to_pylist()
        points = len(self.meta["grid"]["timesteps"]) * int(self.meta["grid"]["draws"])
        self.losses: np.ndarray = (
            table.column("losses").combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, points)
        )

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> LossTable:
        """Open a loss table; raises `ArtifactError` where it is missing, corrupt or of another version."""
        return cls(folder, artifacts.read_header(folder, KIND, SCHEMA_VERSION, verify=verify))

    def rows(self, entries: Sequence[Entry]) -> np.ndarray:
        """Losses of `entries`, [entries, points]. Raises `KeyError` where one is not in the table."""
        where = {key: row for row, key in enumerate(self.keys)}
        return self.losses[[where[entry.key] for entry in entries]]


def write_losses(part: Path, entries: Sequence[Entry], losses: np.ndarray) -> None:
    """Fill a LossTable folder."""
    pq.write_table(_table([entry.key for entry in entries], losses), part / artifacts.LOSSES)


def cache_place(model_digest: str, grid: Grid, dtype: str, change_digest: str | None) -> str:
    """Where in the cache losses live: everything that determines one, except the entry.

    Args:
        change_digest: sha256 of the weights' change, or None at theta0.
    """
    spec = {
        "loss_version": LOSS_VERSION,
        "noise_version": NOISE_VERSION,
        "encoding_version": ENCODING_VERSION,
        "model": model_digest,
        "change": change_digest,
        "grid": grid.spec(),
        "dtype": dtype,
    }
    return f"losses/{digest_of(spec)}"


def cached_losses(
    cache: ContentCache,
    place: str,
    entries: Sequence[Entry],
    points: int,
    measure: Callable[[Sequence[Entry]], np.ndarray],
    *,
    shards: int,
    hit: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """Losses of `entries`, [entries, points], measuring only those that the cache does not hold.

    What is missing is measured shard by shard, and each shard is stored as soon as it is done: a run that was killed
    goes on after its last finished shard, and another training set that shares records shares their losses.

    Args:
        measure: gives the losses of the entries it is handed.
        hit: told the number of entries found.
    """
    known = _read(cache, place, {entry.key for entry in entries}, points)
    hit(sum(entry.key in known for entry in entries))
    missing: dict[int, list[Entry]] = {}
    for entry in entries:
        if entry.key not in known:
            missing.setdefault(shard_of(entry.record, shards), []).append(entry)
    for number in sorted(missing):
        shard = missing[number]
        losses = measure(shard)
        if not np.isfinite(losses).all():
            # Nothing that is not a number is kept; the caller says what it means.
            known.update(zip([entry.key for entry in shard], losses, strict=True))
            continue
        keys = [entry.key for entry in shard]
        sink = pa.BufferOutputStream()
        pq.write_table(_table(keys, losses), sink)
        cache.write(place, "part", sink.getvalue().to_pybytes(), _SUFFIX)
        known.update(zip(keys, losses, strict=True))
    return np.stack([known[entry.key] for entry in entries])


def _read(cache: ContentCache, place: str, wanted: set[str], points: int) -> dict[str, np.ndarray]:
    known: dict[str, np.ndarray] = {}
    for data in cache.read_all(place, _SUFFIX):
        table = pq.read_table(pa.BufferReader(data))
        losses = table.column("losses").combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, points)
        for row, key in enumerate(table.column("entry").to_pylist()):
            if key in wanted:
                known[key] = losses[row]
    return known


def _table(keys: Sequence[str], losses: np.ndarray) -> pa.Table:
    values = pa.array(np.ascontiguousarray(losses, dtype=np.float64).reshape(-1))
    rows = pa.FixedSizeListArray.from_arrays(values, losses.shape[1])
    return pa.table({"entry": pa.array(list(keys), pa.string()), "losses": rows})


def table_meta(model: str, encoded: str, grid: Grid, **facts: Any) -> Mapping[str, Any]:
    """Header metadata of a LossTable."""
    return {"model": model, "encoded_set": encoded, "grid": grid.spec(), **facts}
