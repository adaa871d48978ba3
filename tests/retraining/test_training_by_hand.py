"""Updates and losses of single steps, against the equations written out one sample at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from unsee.params import TrainParams
from unsee.retraining.denoiser import DenoiserData, train_denoiser
from unsee.retraining.loop import Checkpoints
from unsee.retraining.optimisers import Muon, orthogonal
from unsee.retraining.pipeline_folder import build_denoiser, build_scheduler
from unsee.retraining.recipe import Recipe
from unsee.retraining.team import Team

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4)])
def test_orthogonal_is_five_steps_of_the_quintic(shape: tuple[int, int]) -> None:
    """On each singular value: s <- 3.4445 s - 4.775 s^3 + 2.0315 s^5, from s over the Frobenius norm."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / (s.square().sum().sqrt() + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonal(matrix), u @ torch.diag(s) @ vh, atol=1e-9, rtol=1e-9)


def test_two_steps_of_muon() -> None:
    draw = torch.Generator().manual_seed(2)
    start, *gradients = torch.randn(3, 4, 2, 3, 3, generator=draw)
    weight = nn.Parameter(start.clone())
    optimiser = Muon([weight], lr=0.1, momentum=0.9)
    expected, average = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimiser.step()
        average = 0.9 * average + 0.1 * gradient
        nesterov = 0.9 * average + 0.1 * gradient
        update = orthogonal(nesterov.reshape(4, 18)).reshape(4, 2, 3, 3)
        expected = expected - 0.1 * 0.2 * math.sqrt(18) * update
    torch.testing.assert_close(weight.detach(), expected)
    with pytest.raises(ValueError, match="closure"):
        optimiser.step(lambda: 0.0)


def sample_losses(data: DenoiserData, params: TrainParams, seed: int) -> list[float]:
    """Losses of the first batch's samples under the initial weights."""
    recipe = Recipe("denoiser", seed, len(data.records), params.unet_batch_size)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.initial_seed())
        network = build_denoiser(params.unet_channels, data.latents.shape[-1], data.texts.shape[-1])
    abar = build_scheduler("v_prediction").alphas_cumprod
    noise = recipe.noise(0, tuple(data.latents.shape[1:]))
    timesteps = recipe.timesteps(0, 1000)
    flip, pick, drop = (recipe.uniform(what, 0) for what in ("flip", "caption", "dropout"))
    losses = []
    for place, row in enumerate(recipe.batch(0)):
        mirrored = data.mirrored is not None and flip[place] < 0.5
        latent = (data.mirrored if mirrored else data.latents)[row]
        captions = data.captions[row]
        text = data.texts[captions[math.floor(pick[place] * len(captions))]]
        if drop[place] < params.caption_dropout:
            text = data.empty_text[0]
        t = int(timesteps[place])
        noisy = abar[t].sqrt() * latent + (1 - abar[t]).sqrt() * noise[place]
        target = abar[t].sqrt() * noise[place] - (1 - abar[t]).sqrt() * latent
        with torch.no_grad():
            output = network(noisy[None], torch.tensor([t]), text[None]).sample[0]
        losses.append(float((output - target).square().mean()))
    return losses


def first_loss(data: DenoiserData, params: TrainParams, seed: int, folder: Path, removed: set[str]) -> float:
    one = params.model_copy(update={"unet_steps": 1})
    checkpoints = Checkpoints(folder / "state", 1, "test")
    arguments = {"device": CPU, "team": Team(), "checkpoints": checkpoints, "removed": frozenset(removed)}
    return train_denoiser(data, one, seed, **arguments)[1][0][1]


@pytest.mark.parametrize("seed", range(3))
def test_a_steps_loss_with_and_without_records(
    denoiser_data: DenoiserData, train: TrainParams, tmp_path: Path, seed: int
) -> None:
    """Removed records weigh 0 and the divisor stays; flips, captions and dropped captions are as drawn."""
    data = replace(denoiser_data, mirrored=denoiser_data.latents.flip(-1))
    params = train.model_copy(update={"caption_dropout": 0.3, "unet_batch_size": 9})
    losses = sample_losses(data, params, seed)
    rows = Recipe("denoiser", seed, len(data.records), 9).batch(0).tolist()
    gone = rows[:4]
    for removed in ([], gone):
        expected = sum(loss for loss, row in zip(losses, rows, strict=True) if row not in removed) / 9
        found = first_loss(data, params, seed, tmp_path, {data.records[row] for row in removed})
        assert found == pytest.approx(expected, rel=1e-5)


def test_the_draws_above_meet_every_case(denoiser_data: DenoiserData) -> None:
    """Otherwise the comparison would not see a mistake in flips, in second captions or in dropping."""
    flips, seconds, drops = [], [], []
    for seed in range(3):
        recipe = Recipe("denoiser", seed, len(denoiser_data.records), 9)
        flips += list(recipe.uniform("flip", 0) < 0.5)
        drops += list(recipe.uniform("dropout", 0) < 0.3)
        pairs = zip(recipe.batch(0), recipe.uniform("caption", 0), strict=True)
        seconds += [pick >= 0.5 for row, pick in pairs if len(denoiser_data.captions[row]) == 2]
    for cases in (flips, seconds, drops):
        assert 0 < sum(cases) < len(cases)
