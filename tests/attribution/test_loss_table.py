"""The loss cache measures each loss once, whatever the subset, and goes on after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unsee import artifacts
from unsee.attribution import loss_table
from unsee.attribution.grid import midpoint_grid
from unsee.attribution.loss_table import LossTable, cache_place, cached_losses
from unsee.cache import ContentCache
from unsee.models.encoded_set import EncodedSet, Entries, Entry

GRID = midpoint_grid(1000, 3, 2, seed=0)


class Meter:
    """Stands for the model: a loss that is a function of the entry, and a count of evaluations."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.entries: list[str] = []
        self.left = stop_after

    def __call__(self, entries: Entries) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.entries += [entry.key for entry in entries]
        return np.array([[hash((e.key, i)) % 1000 for i in range(GRID.points)] for e in entries], dtype=float)


def run(cache: ContentCache, entries: Entries, meter: Meter, shards: int = 4) -> np.ndarray:
    return cached_losses(cache, "losses/x", entries, GRID.points, meter, shards=shards)


def test_each_loss_is_measured_once(tmp_path: Path, encoded_digits: EncodedSet) -> None:
    cache, meter = ContentCache(tmp_path), Meter()
    entries = encoded_digits.entries((False,))
    some = run(cache, entries[:10], meter)
    whole = run(cache, entries, meter)
    again = run(cache, entries[::-1], meter, shards=1)
    assert sorted(meter.entries) == sorted(e.key for e in entries)
    np.testing.assert_array_equal(whole[:10], some)
    np.testing.assert_array_equal(whole[::-1], again)
    np.testing.assert_array_equal(whole, Meter()(entries))


def test_a_killed_run_goes_on_after_its_last_finished_shard(tmp_path: Path, encoded_digits: EncodedSet) -> None:
    cache, entries = ContentCache(tmp_path), encoded_digits.entries((False, True))
    killed = Meter(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        run(cache, entries, killed)
    rest = Meter()
    losses = run(cache, entries, rest)
    assert killed.entries
    assert rest.entries
    assert sorted(killed.entries + rest.entries) == sorted(e.key for e in entries)
    np.testing.assert_array_equal(losses, Meter()(entries))


def test_a_damaged_shard_is_measured_again(tmp_path: Path, encoded_digits: EncodedSet) -> None:
    cache, entries = ContentCache(tmp_path), encoded_digits.entries((False,))
    whole = run(cache, entries, Meter())
    damaged = sorted((tmp_path / "losses" / "x").iterdir())[1]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 4
    damaged.write_bytes(data)
    meter = Meter()
    np.testing.assert_array_equal(run(cache, entries, meter), whole)
    assert 0 < len(meter.entries) < len(entries)


def test_the_place_depends_on_all_that_determines_a_loss() -> None:
    other = midpoint_grid(1000, 4, 2, seed=0)
    reseeded = midpoint_grid(1000, 3, 2, seed=1)
    places = {
        cache_place("m", GRID, "float32", None),
        cache_place("n", GRID, "float32", None),
        cache_place("m", other, "float32", None),
        cache_place("m", reseeded, "float32", None),
        cache_place("m", GRID, "bfloat16", None),
        cache_place("m", GRID, "float32", "d"),
    }
    assert len(places) == 6


def test_a_table_gives_back_its_rows(tmp_path: Path, encoded_digits: EncodedSet) -> None:
    entries = encoded_digits.entries((False,))
    losses = Meter()(entries)
    meta = loss_table.table_meta("m", "e", GRID)
    with artifacts.writing(tmp_path / "t", loss_table.KIND, loss_table.SCHEMA_VERSION, dict(meta)) as part:
        loss_table.write_losses(part, entries, losses)
    table = LossTable.load(tmp_path / "t")
    np.testing.assert_array_equal(table.rows(entries[5:2:-1]), losses[5:2:-1])
    stranger = Entries.of([Entry("other", 0, "caption", 0, False)])
    with pytest.raises(KeyError):
        table.rows(stranger)
