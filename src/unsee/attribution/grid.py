"""The (timestep, draw) grid that losses are measured on, and which of it the published recipe uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Timesteps x draws, the same for every entry.

    Attributes:
        timesteps: ascending.
        draws: independent noises per timestep.
        seed: the run's seed, part of every noise key.
        train_timesteps: T.
    """

    timesteps: tuple[int, ...]
    draws: int
    seed: int
    train_timesteps: int

    @property
    def points(self) -> int:
        """Number of (timestep, draw) pairs; a loss row is ordered timestep by timestep, draws inside."""
        return len(self.timesteps) * self.draws

    def point(self, index: int) -> tuple[int, int]:
        """(timestep, draw) at a row position."""
        step, draw = divmod(index, self.draws)
        return self.timesteps[step], draw

    def per_timestep(self, losses: np.ndarray) -> np.ndarray:
        """Losses [..., points] averaged over draws: [..., timesteps]."""
        result: np.ndarray = losses.reshape(*losses.shape[:-1], len(self.timesteps), self.draws).mean(axis=-1)
        return result

    def spec(self) -> dict[str, Any]:
        """What identifies the grid in cache keys."""
        return {"timesteps": list(self.timesteps), "draws": self.draws, "seed": self.seed}


def midpoint_grid(train_timesteps: int, points: int, draws: int, seed: int) -> Grid:
    """Midpoints of `points` equal strides over [0, T): no stride is left out, whether or not `points` divides T.

    Raises:
        ValueError: more points than timesteps.
    """
    if points > train_timesteps:
        raise ValueError(f"{points} grid points on {train_timesteps} timesteps")
    middles = (np.arange(points) + 0.5) * train_timesteps / points
    return Grid(tuple(int(t) for t in middles), draws, seed, train_timesteps)


def official_grid(train_timesteps: int, seed: int) -> Grid:
    """The published scoring grid: T = 1000 gives 0, 50, .., 950, one draw each."""
    stride = train_timesteps / 20
    return Grid(tuple(int(i * stride) for i in range(20)), 1, seed, train_timesteps)
