"""What a denoiser was trained to output, by kind of training.

Each objective gives the forward process, the regression target and the timestep as the network wants it:

* diffusion:  z_t = sqrt(abar_t) z + sqrt(1 - abar_t) n, with target n (`epsilon`), z (`sample`) or
  sqrt(abar_t) n - sqrt(1 - abar_t) z (`v_prediction`);
* flow matching:  z_s = (1 - s) z + s n, with target n - z, the velocity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from unsee.errors import InputError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


class Objective(Protocol):
    """How a model was trained. Timesteps are integers in [0, train_timesteps)."""

    train_timesteps: int
    prediction_type: str

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t, of the latents' shape; `timesteps` is [n]."""
        ...

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The regression target, of the latents' shape."""
        ...

    def network_timesteps(self, timesteps: Tensor) -> Tensor:
        """The timesteps as the network takes them."""
        ...


class DiffusionObjective:
    """Variance-preserving diffusion with a discrete noise schedule.

    Args:
        alphas_cumprod: abar_t, [T].
        prediction_type: one of `PREDICTION_TYPES`.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str) -> None:
        self.train_timesteps = len(alphas_cumprod)
        self.prediction_type = prediction_type
        self._signal = alphas_cumprod.double().sqrt().float()
        self._noise = (1 - alphas_cumprod.double()).sqrt().float()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = sqrt(abar_t) z + sqrt(1 - abar_t) n."""
        signal, sigma = self._coefficients(latents, timesteps)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """n, z, or the velocity sqrt(abar_t) n - sqrt(1 - abar_t) z."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        signal, sigma = self._coefficients(latents, timesteps)
        return signal * noise - sigma * latents

    def network_timesteps(self, timesteps: Tensor) -> Tensor:
        """The same integers."""
        return timesteps

    def _coefficients(self, latents: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        where = timesteps.to(self._signal.device)
        shape = (-1, *[1] * (latents.dim() - 1))
        signal = self._signal[where].to(latents.device).view(shape)
        return signal, self._noise[where].to(latents.device).view(shape)


class FlowObjective:
    """Rectified flow: timestep t stands for s = (t + 1) / T, shifted as the model was trained.

    Args:
        train_timesteps: T.
        shift: s -> shift s / (1 + (shift - 1) s).
    """

    prediction_type = "flow"

    def __init__(self, train_timesteps: int, shift: float = 1.0) -> None:
        self.train_timesteps = train_timesteps
        self._shift = shift

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_s = (1 - s) z + s n."""
        s = self._time(timesteps).to(latents).view(-1, *[1] * (latents.dim() - 1))
        return (1 - s) * latents + s * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity n - z."""
        return noise - latents

    def network_timesteps(self, timesteps: Tensor) -> Tensor:
        """S T, float32."""
        return self._time(timesteps) * self.train_timesteps

    def _time(self, timesteps: Tensor) -> Tensor:
        s = (timesteps.float() + 1) / self.train_timesteps
        return self._shift * s / (1 + (self._shift - 1) * s)


def objective_from_scheduler(config: Mapping[str, Any], class_name: str, where: str) -> Objective:
    """The objective that a diffusers scheduler's configuration implies.

    Args:
        config: the scheduler's config.
        class_name: its class, which tells flow matching from diffusion.
        where: file named in errors.

    Raises:
        InputError: the prediction type is unknown.
    """
    if class_name.startswith("FlowMatch"):
        return FlowObjective(int(config["num_train_timesteps"]), float(config.get("shift") or 1.0))
    from diffusers import DDPMScheduler

    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in PREDICTION_TYPES:
        remedy = f"unsee knows {', '.join(PREDICTION_TYPES)} and flow matching."
        raise InputError(f"is '{prediction}'.", file=where, field="prediction_type", remedy=remedy)
    # DDPMScheduler computes abar_t from every beta schedule that the other diffusion schedulers know.
    abar: torch.Tensor = DDPMScheduler.from_config(dict(config)).alphas_cumprod
    return DiffusionObjective(abar, prediction)
