"""The autoencoder learns its pictures, and its latents are standardised without changing what it draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unsee.params import TrainParams
from unsee.retraining.autoencoder import raw_latents, standardise, train_autoencoder
from unsee.retraining.loop import Checkpoints
from unsee.retraining.pipeline_folder import build_autoencoder
from unsee.retraining.team import Team

CPU = torch.device("cpu")


def fitted(pixels: torch.Tensor, train: TrainParams, folder: Path, seed: int = 0):
    checkpoints = Checkpoints(folder, train.checkpoint_every, "test")
    return train_autoencoder(pixels, train, seed, device=CPU, team=Team(), checkpoints=checkpoints)


def test_it_learns_to_redraw_its_pictures(pixels: torch.Tensor, train: TrainParams, tmp_path: Path) -> None:
    longer = train.model_copy(update={"vae_steps": 150, "vae_learning_rate": 0.005, "checkpoint_every": 1000})
    autoencoder, curve = fitted(pixels, longer, tmp_path / "a")
    with torch.no_grad():
        redrawn = autoencoder.decode(raw_latents(autoencoder, pixels)).sample
    assert (redrawn - pixels).square().mean() < 0.5 * pixels.var()
    assert [step for step, _ in curve] == [20, 40, 60, 80, 100, 120, 140, 150]
    assert curve[-1][1] < 0.5 * curve[0][1]


def test_its_latents_are_standardised(pixels: torch.Tensor, train: TrainParams, tmp_path: Path) -> None:
    autoencoder, _ = fitted(pixels, train, tmp_path / "a")
    latents = raw_latents(autoencoder, pixels)
    assert latents.shape == (10, 4, 4, 4)
    assert autoencoder.config.scaling_factor == 1.0
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)


def test_standardising_changes_no_picture_and_scales_the_spread(pixels: torch.Tensor) -> None:
    torch.manual_seed(1)
    autoencoder = build_autoencoder([16, 16], 8).eval()
    with torch.no_grad():
        before = autoencoder.encode(pixels).latent_dist
        drawn = autoencoder.decode(before.mean + 0.5).sample
        mean, std = before.mean.mean(dim=(0, 2, 3)), before.mean.std(dim=(0, 2, 3))
        standardise(autoencoder, before.mean)
        after = autoencoder.encode(pixels).latent_dist
        shift = (0.5 / std).view(1, -1, 1, 1)
        torch.testing.assert_close(autoencoder.decode(after.mean + shift).sample, drawn, atol=1e-4, rtol=1e-4)
    column = std.view(1, -1, 1, 1)
    torch.testing.assert_close(after.mean * column + mean.view(1, -1, 1, 1), before.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.std * column, before.std, atol=1e-4, rtol=1e-4)


def test_the_seed_decides_and_the_global_generator_does_not(
    pixels: torch.Tensor, train: TrainParams, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    first, _ = fitted(pixels, train, tmp_path / "a")
    state = torch.manual_seed(2).get_state()
    second, _ = fitted(pixels, train, tmp_path / "b")
    assert torch.equal(torch.get_rng_state(), state)
    other, _ = fitted(pixels, train, tmp_path / "c", seed=1)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(raw_latents(first, pixels), raw_latents(other, pixels))


def test_an_interrupted_training_goes_on_bit_for_bit(pixels: torch.Tensor, train: TrainParams, tmp_path: Path) -> None:
    whole, curve = fitted(pixels, train, tmp_path / "a")
    checkpoints = Checkpoints(tmp_path / "b", train.checkpoint_every, "test")
    steps = []

    def stop(count: int) -> None:
        steps.append(count)
        if sum(steps) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(pixels, train, 0, device=CPU, team=Team(), checkpoints=checkpoints, advance=stop)
    steps.clear()
    resumed, again = train_autoencoder(
        pixels, train, 0, device=CPU, team=Team(), checkpoints=checkpoints, advance=steps.append
    )
    assert steps == [4, 1, 1]
    assert again == curve
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_flips_train_on_mirrored_pictures(pixels: torch.Tensor, train: TrainParams, tmp_path: Path) -> None:
    plain, _ = fitted(pixels, train, tmp_path / "a")
    mirrored, _ = fitted(pixels, train.model_copy(update={"flip": True}), tmp_path / "b")
    symmetric = pixels.clone()
    symmetric[..., :4] = pixels[..., 4:].flip(-1)
    assert not torch.equal(raw_latents(plain, pixels), raw_latents(mirrored, pixels))
    once, _ = fitted(symmetric, train, tmp_path / "c")
    twice, _ = fitted(symmetric, train.model_copy(update={"flip": True}), tmp_path / "d")
    assert torch.equal(raw_latents(once, symmetric), raw_latents(twice, symmetric))
