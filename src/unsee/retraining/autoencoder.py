"""Training the autoencoder between pixels and latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from unsee.params import TrainParams
from unsee.retraining.loop import Checkpoints, fit
from unsee.retraining.optimisers import muon_with_adam
from unsee.retraining.pipeline_folder import build_autoencoder
from unsee.retraining.recipe import Recipe, learning_rate
from unsee.retraining.team import Team

_WARM_UP = 50
_KL_WEIGHT = 1e-4
_PICTURES_PER_BATCH = 64


def train_autoencoder(
    pixels: Tensor,
    params: TrainParams,
    seed: int,
    *,
    device: torch.device,
    team: Team,
    checkpoints: Checkpoints,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[AutoencoderKL, list[tuple[int, float]]]:
    """An autoencoder whose latents have mean 0 and variance 1 in every channel over the given pictures, and its curve.

    The loss of a picture is its mean absolute plus mean squared pixel error plus 1e-4 times the mean KL divergence of
    its latents from a standard normal.

    Args:
        pixels: [N, 3, R, R] in [-1, 1].
        params: the section `train`.
        seed: of the initial weights and of every draw.
    """
    recipe = Recipe("autoencoder", seed, len(pixels), params.vae_batch_size)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.initial_seed())
        autoencoder = build_autoencoder(params.vae_channels, pixels.shape[-1]).to(device)
    mine = team.positions(params.vae_batch_size)

    def loss_at(step: int) -> Tensor:
        batch = pixels[torch.from_numpy(recipe.batch(step)[mine])].to(device)
        if params.flip:
            mirrored = torch.from_numpy(recipe.uniform("flip", step)[mine] < 0.5).to(device)
            batch = torch.where(mirrored.view(-1, 1, 1, 1), batch.flip(-1), batch)
        posterior = autoencoder.encode(batch).latent_dist
        noise = recipe.noise(step, tuple(posterior.mean.shape[1:]))[mine].to(device)
        output = autoencoder.decode(posterior.mean + posterior.std * noise).sample
        error = F.l1_loss(output, batch) + F.mse_loss(output, batch)
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        loss: Tensor = (error + _KL_WEIGHT * divergence) * len(batch) / params.vae_batch_size
        return loss

    curve = fit(
        autoencoder,
        muon_with_adam(autoencoder, params.vae_learning_rate),
        loss_at,
        steps=params.vae_steps,
        rate_at=lambda step: learning_rate(step, params.vae_steps, params.vae_learning_rate, _WARM_UP),
        team=team,
        checkpoints=checkpoints,
        advance=advance,
    )
    autoencoder.eval().requires_grad_(False)
    standardise(autoencoder, raw_latents(autoencoder, pixels))
    return autoencoder, curve


@torch.no_grad()
def raw_latents(autoencoder: AutoencoderKL, pixels: Tensor) -> Tensor:
    """The mode of every picture's latent distribution, [N, C, h, w] float32 on the CPU, not scaled."""
    device = autoencoder.device
    parts = [
        autoencoder.encode(part.to(device)).latent_dist.mode().float().cpu()
        for part in torch.split(pixels, _PICTURES_PER_BATCH)
    ]
    return torch.cat(parts)


@torch.no_grad()
def standardise(autoencoder: AutoencoderKL, latents: Tensor) -> None:
    """Fold (z - mean) / std per channel into the autoencoder's 1 x 1 convolutions, exactly; its scaling factor is 1.

    A pipeline knows one scaling factor for all channels, but a denoiser learns faster where each is standardised.

    Args:
        latents: what the autoencoder gives for the training pictures, [N, C, h, w].
    """
    mean = latents.mean(dim=(0, 2, 3)).to(autoencoder.device)
    std = latents.std(dim=(0, 2, 3)).to(autoencoder.device)
    channels = len(mean)
    before, after = autoencoder.quant_conv, autoencoder.post_quant_conv
    before.weight[:channels] /= std.view(-1, 1, 1, 1)
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()
    after.bias += torch.einsum("oi,i->o", after.weight[:, :, 0, 0], mean)
    after.weight *= std.view(1, -1, 1, 1)
    autoencoder.register_to_config(scaling_factor=1.0)
