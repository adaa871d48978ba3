"""What every training step sees, as a pure function of the seed, the step and the position in the batch.

Nothing here depends on the number of processes, on where a run was resumed or on any global generator, so a training
can be replayed: with records removed, every other record keeps its batch, timestep, noise, caption and mirroring.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Philox
from scipy.special import ndtri
from torch import Tensor

from unsee.params import TrainParams

RECIPE_VERSION = 1
"""Raised by hand whenever the numbers below change for the same arguments."""


@dataclass(frozen=True)
class Recipe:
    """The draws of one training.

    Attributes:
        purpose: "autoencoder" or "denoiser": independent streams.
        seed: the run's seed.
        records: how many records there are, N.
        batch_size: positions in a batch, B.
    """

    purpose: str
    seed: int
    records: int
    batch_size: int

    def batch(self, step: int) -> np.ndarray:
        """Record indices at the positions of a batch, int64 [B]: batches deal out one shuffle after another.

        The batch that ends one shuffle goes on with the next, so every record is seen equally often.
        """
        turns = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(turns, self.records)
        return np.array([self._shuffle(epoch)[place] for epoch, place in zip(epochs, places, strict=True)])

    def uniform(self, what: str, step: int) -> np.ndarray:
        """One uniform in [0, 1) for each position, float64 [B]."""
        return self._words(what, step, self.batch_size) / 2.0**53

    def timesteps(self, step: int, train_timesteps: int) -> np.ndarray:
        """Timesteps in [0, T), int64 [B]: the b-th position draws from the b-th of B equal strata.

        Each position is uniform on the whole once averaged over the shuffles, and a batch covers [0, T) evenly, which
        takes most of the timestep's share out of the gradient's noise.
        """
        place = (np.arange(self.batch_size) + self.uniform("timestep", step)) / self.batch_size
        drawn: np.ndarray = np.minimum((place * train_timesteps).astype(np.int64), train_timesteps - 1)
        return drawn

    def noise(self, step: int, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise for each position, float32 [B, *shape], on the CPU."""
        count = self.batch_size * int(np.prod(shape))
        normal = ndtri((self._words("noise", step, count) + 0.5) / 2.0**53)
        return torch.from_numpy(normal.astype(np.float32)).view(self.batch_size, *shape)

    def initial_seed(self) -> int:
        """Seed of the initial weights, for torch's own generator."""
        return int(self._words("weights", 0, 1)[0])

    def _shuffle(self, epoch: int) -> np.ndarray:
        return _shuffle(self, int(epoch))

    def _words(self, what: str, step: int, count: int) -> np.ndarray:
        text = f"{RECIPE_VERSION}|{self.purpose}|{self.seed}|{what}|{step}"
        key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")
        return Philox(key=key).random_raw(count) >> np.uint64(11)


@functools.lru_cache(maxsize=4)
def _shuffle(recipe: Recipe, epoch: int) -> np.ndarray:
    return np.argsort(recipe._words("shuffle", epoch, recipe.records), kind="stable")


def plan_of(train: TrainParams) -> dict[str, Any]:
    """What of the section `train` decides about the weights, beyond rounding."""
    return train.model_dump(exclude={"processes", "checkpoint_every"})


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Linear warm-up over the first `warm_up` steps, half a cosine from `peak` to 0 over all `steps`."""
    return peak * min(1.0, (step + 1) / warm_up) * 0.5 * (1.0 + float(np.cos(np.pi * step / steps)))
