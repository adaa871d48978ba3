"""Forward processes and targets against the schedulers that training scripts use."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from unsee.errors import InputError
from unsee.models.objectives import DiffusionObjective, FlowObjective, objective_from_scheduler

LATENT, NOISE = torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
TIMESTEPS = torch.tensor([0, 1, 500, 998, 999])


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_diffusion_matches_the_training_scheduler(kind, betas: str) -> None:
    if kind is PNDMScheduler and betas == "squaredcos_cap_v2":
        betas = "linear"
    scheduler = kind(beta_schedule=betas, prediction_type="v_prediction")
    objective = objective_from_scheduler(scheduler.config, kind.__name__, "x")
    reference = DDPMScheduler(beta_schedule=betas, prediction_type="v_prediction")
    torch.testing.assert_close(
        objective.add_noise(LATENT, NOISE, TIMESTEPS), reference.add_noise(LATENT, NOISE, TIMESTEPS)
    )
    torch.testing.assert_close(
        objective.target(LATENT, NOISE, TIMESTEPS), reference.get_velocity(LATENT, NOISE, TIMESTEPS)
    )


def test_epsilon_and_sample_targets() -> None:
    abar = DDPMScheduler().alphas_cumprod
    assert DiffusionObjective(abar, "epsilon").target(LATENT, NOISE, TIMESTEPS) is NOISE
    assert DiffusionObjective(abar, "sample").target(LATENT, NOISE, TIMESTEPS) is LATENT


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_matches_its_scheduler(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    objective = objective_from_scheduler(scheduler.config, "FlowMatchEulerDiscreteScheduler", "x")
    assert isinstance(objective, FlowObjective)
    network = objective.network_timesteps(TIMESTEPS)
    position = [999 - int(t) for t in TIMESTEPS]
    torch.testing.assert_close(network, scheduler.timesteps[position], rtol=1e-4, atol=1e-3)
    noisy = objective.add_noise(LATENT, NOISE, TIMESTEPS)
    s = (network / 1000).view(-1, 1, 1, 1)
    torch.testing.assert_close(noisy, (1 - s) * LATENT + s * NOISE)
    # One exact Euler step along the target leads back to the clean latent.
    torch.testing.assert_close(noisy - s * objective.target(LATENT, NOISE, TIMESTEPS), LATENT, rtol=1e-4, atol=1e-5)


def test_an_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(InputError, match="prediction_type: is 'magic'"):
        objective_from_scheduler({"prediction_type": "magic", "num_train_timesteps": 1000}, "DDPMScheduler", "x")
