"""Losses do not depend on how the work is cut, and equal a naive loop over the equation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unsee.attribution.grid import midpoint_grid
from unsee.attribution.losses import grid_losses
from unsee.attribution.noise import NoiseKey, gaussian
from unsee.models.encoded_set import EncodedSet, Entry
from unsee.models.pipeline import DiffusersModel
from unsee.records.sharding import split_records
from unsee.versions import LOSS_VERSION

GRID = midpoint_grid(1000, 4, 2, seed=3)


@pytest.fixture(scope="module")
def reference(tiny_model: DiffusersModel, encoded_digits: EncodedSet) -> dict[str, np.ndarray]:
    entries = encoded_digits.entries((False, True))
    losses = grid_losses(tiny_model, encoded_digits, entries, GRID, batch_size=16)
    return {entry.key: row for entry, row in zip(entries, losses, strict=True)}


def check(entries: list[Entry], losses: np.ndarray, reference: dict[str, np.ndarray]) -> None:
    expected = np.stack([reference[entry.key] for entry in entries])
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_invariance(
    batch_size: int, tiny_model: DiffusersModel, encoded_digits: EncodedSet, reference: dict[str, np.ndarray]
) -> None:
    entries = encoded_digits.entries((False, True))[:20]
    check(entries, grid_losses(tiny_model, encoded_digits, entries, GRID, batch_size=batch_size), reference)


@pytest.mark.parametrize("shards", [1, 3, 10])
def test_shard_invariance(
    shards: int, tiny_model: DiffusersModel, encoded_digits: EncodedSet, reference: dict[str, np.ndarray]
) -> None:
    parts = split_records(encoded_digits.records, shards)
    assert sorted(record for part in parts for record in part) == sorted(encoded_digits.records)
    for records in parts:
        entries = encoded_digits.entries((False, True), set(records))
        check(entries, grid_losses(tiny_model, encoded_digits, entries, GRID, batch_size=16), reference)


def test_order_and_subset_invariance(
    tiny_model: DiffusersModel, encoded_digits: EncodedSet, reference: dict[str, np.ndarray]
) -> None:
    entries = encoded_digits.entries((False, True))
    order = np.random.default_rng(0).permutation(len(entries))[:30]
    shuffled = [entries[i] for i in order]
    check(shuffled, grid_losses(tiny_model, encoded_digits, shuffled, GRID, batch_size=16), reference)


def test_equals_a_naive_loop(tiny_model: DiffusersModel, encoded_digits: EncodedSet) -> None:
    """One sample at a time, straight from the definition, with the scheduler's own forward process."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(tiny_model._pipe.scheduler.config)
    entries = encoded_digits.entries((True,))[:3]
    losses = grid_losses(tiny_model, encoded_digits, entries, GRID, batch_size=5)
    for entry, row in zip(entries, losses, strict=True):
        for column, loss in enumerate(row):
            timestep, draw = GRID.point(column)
            latent = encoded_digits.latents([entry.position], [entry.flip])
            noise = gaussian([NoiseKey("loss", 3, entry.key, timestep, draw)], latent.shape[1:])
            time = torch.tensor([timestep])
            text = encoded_digits.texts["states"][entry.text : entry.text + 1]
            with torch.no_grad():
                output = tiny_model.denoiser(scheduler.add_noise(latent, noise, time), time, text).sample
            assert loss == pytest.approx(float((output - noise).square().mean()), rel=1e-5)


def test_golden_losses(tiny_model: DiffusersModel, encoded_digits: EncodedSet) -> None:
    """A change of these numbers makes every cached loss wrong: raise LOSS_VERSION, then renew them."""
    entries = encoded_digits.entries((False,))[:2]
    losses = grid_losses(tiny_model, encoded_digits, entries, midpoint_grid(1000, 3, 1, seed=0), batch_size=6)
    assert LOSS_VERSION == 1
    np.testing.assert_allclose(losses, GOLDEN, rtol=1e-4)


GOLDEN = [[1.2283641, 1.0997977, 1.3522710], [0.9131328, 1.2094915, 0.9836318]]


def test_the_midpoint_grid_covers_every_stride_even_when_it_does_not_divide() -> None:
    grid = midpoint_grid(1000, 7, 1, seed=0)
    edges = np.arange(8) * 1000 / 7
    assert all(low <= t < high for t, low, high in zip(grid.timesteps, edges[:-1], edges[1:], strict=True))


def test_more_grid_points_than_timesteps_is_refused() -> None:
    with pytest.raises(ValueError, match="11 grid points on 10 timesteps"):
        midpoint_grid(10, 11, 1, seed=0)


def test_half_precision_is_close_and_returns_float32(pipeline_folder, encoded_digits: EncodedSet) -> None:
    half = DiffusersModel.load(pipeline_folder, device="cpu", dtype="bfloat16")
    full = DiffusersModel.load(pipeline_folder, device="cpu")
    entries = encoded_digits.entries((False,))[:4]
    rough, exact = (grid_losses(m, encoded_digits, entries, GRID, batch_size=16) for m in (half, full))
    assert next(half.denoiser.parameters()).dtype == torch.float32
    assert not np.array_equal(rough, exact)
    np.testing.assert_allclose(rough, exact, rtol=0.05)
