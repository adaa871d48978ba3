"""What a training step sees depends on the seed, the step and the position, and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unsee.retraining.recipe import Recipe, learning_rate

RECIPES = st.builds(
    Recipe,
    purpose=st.sampled_from(["autoencoder", "denoiser"]),
    seed=st.integers(0, 2**32),
    records=st.integers(1, 60),
    batch_size=st.integers(1, 80),
)


@given(recipe=RECIPES, steps=st.integers(1, 12))
def test_every_record_is_seen_equally_often(recipe: Recipe, steps: int) -> None:
    seen = np.concatenate([recipe.batch(step) for step in range(steps)])
    counts = np.bincount(seen, minlength=recipe.records)
    assert len(counts) == recipe.records
    assert counts.max() - counts.min() <= 1


@given(recipe=RECIPES, step=st.integers(0, 10_000))
def test_a_step_can_be_replayed_alone(recipe: Recipe, step: int) -> None:
    again = replace(recipe)
    for before in range(max(0, step - 2), step):
        recipe.batch(before)
    assert np.array_equal(recipe.batch(step), again.batch(step))
    assert np.array_equal(recipe.uniform("dropout", step), again.uniform("dropout", step))
    assert torch.equal(recipe.noise(step, (2, 3)), again.noise(step, (2, 3)))


@given(recipe=RECIPES, step=st.integers(0, 10_000), train_timesteps=st.sampled_from([10, 100, 1000]))
def test_timesteps_cover_the_schedule_evenly(recipe: Recipe, step: int, train_timesteps: int) -> None:
    drawn = recipe.timesteps(step, train_timesteps)
    low = np.arange(recipe.batch_size) / recipe.batch_size * train_timesteps
    assert drawn.dtype == np.int64
    assert (drawn >= np.floor(low)).all()
    assert (drawn <= low + train_timesteps / recipe.batch_size).all()
    assert drawn.max() < train_timesteps


@given(recipe=RECIPES, step=st.integers(0, 100))
def test_a_positions_noise_does_not_depend_on_the_batch_size(recipe: Recipe, step: int) -> None:
    larger = replace(recipe, batch_size=recipe.batch_size + 5)
    assert torch.equal(larger.noise(step, (4, 2))[: recipe.batch_size], recipe.noise(step, (4, 2)))


def test_noise_is_standard_normal() -> None:
    noise = torch.cat([Recipe("denoiser", 0, 10, 64).noise(step, (4, 8, 8)) for step in range(20)]).double()
    count = noise.numel()
    assert abs(noise.mean()) < 4 / count**0.5
    assert abs(noise.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs(noise.pow(4).mean() - 3) < 4 * (96 / count) ** 0.5


def test_streams_are_independent() -> None:
    recipe = Recipe("denoiser", 3, 40, 32)
    draws = {
        "itself": recipe.uniform("dropout", 5),
        "another step": recipe.uniform("dropout", 6),
        "another use": recipe.uniform("caption", 5),
        "another seed": replace(recipe, seed=4).uniform("dropout", 5),
        "another training": replace(recipe, purpose="autoencoder").uniform("dropout", 5),
    }
    assert len({draw.tobytes() for draw in draws.values()}) == len(draws)


def test_the_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    recipe = Recipe("denoiser", 0, 10, 8)
    recipe.batch(3)
    recipe.noise(3, (4, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_known_values() -> None:
    """A change of these numbers silently breaks paired retraining: raise RECIPE_VERSION with it."""
    recipe = Recipe("denoiser", 0, 7, 4)
    assert recipe.batch(0).tolist() == [3, 1, 4, 2]
    assert recipe.batch(1).tolist() == [0, 5, 6, 4]
    assert recipe.timesteps(2, 1000).tolist() == [62, 392, 576, 790]
    assert recipe.noise(2, (1,)).flatten().tolist() == pytest.approx(
        [-0.6021401, 0.6858602, -1.3513051, -1.3705964], abs=1e-6
    )


def test_the_learning_rate_warms_up_and_comes_down() -> None:
    rates = [learning_rate(step, 100, 2.0, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0, rel=0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001 * 2.0
