"""Noise that belongs to the record: counter-based, keyed by what it is for and by nothing else.

A batch-indexed generator would tie a score to the batch size, the order and the subset it was computed in. Here the
noise of (purpose, seed, identity, timestep, draw) is a pure function of exactly these, so losses do not change with
batching, order, sharding, subset, resume or number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Philox
from torch import Tensor

from unsee.versions import NOISE_VERSION


@dataclass(frozen=True)
class NoiseKey:
    """What a noise belongs to.

    Attributes:
        purpose: "loss", "fisher", "gradient", "probe": independent streams.
        seed: the run's seed.
        identity: an entry's key (record, caption, flip) or a query's id.
        timestep: the timestep it is used at.
        draw: number of the draw at that timestep.
    """

    purpose: str
    seed: int
    identity: str
    timestep: int
    draw: int

    def words(self) -> np.ndarray:
        """The generator's 128-bit key, two uint64."""
        text = f"{NOISE_VERSION}|{self.purpose}|{self.seed}|{self.identity}|{self.timestep}|{self.draw}"
        return np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")


def gaussian(keys: Sequence[NoiseKey], shape: Sequence[int]) -> Tensor:
    """Standard normal noise, [len(keys), *shape] float32 on the CPU; row i depends on keys[i] and `shape` only.

    Philox words through Box-Muller: the words are specified by the generator's paper, whereas the way a library
    turns words into normals may change with its version.
    """
    size = int(np.prod(shape))
    pairs = (size + 1) // 2
    words = np.empty((len(keys), pairs), dtype=np.uint64)
    for row, key in enumerate(keys):
        words[row] = Philox(key=key.words()).random_raw(pairs)
    # 32 bits each; + 1/2 keeps the radius' uniform away from zero.
    uniform = ((words >> np.uint64(32)).astype(np.float64) + 0.5) / 2.0**32
    angle = (words & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2 * np.pi / 2.0**32)
    radius = np.sqrt(-2.0 * np.log(uniform))
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :size]
    return torch.from_numpy(normal.astype(np.float32)).view(len(keys), *shape)


def uniforms(purpose: str, seed: int, identity: str, count: int) -> np.ndarray:
    """`count` uniforms in [0, 1), float64, a pure function of the arguments (a prefix of any longer request)."""
    key = NoiseKey(purpose, seed, identity, timestep=-1, draw=0)
    words = Philox(key=key.words()).random_raw(count)
    result: np.ndarray = (words >> np.uint64(11)).astype(np.float64) / 2.0**53
    return result


def stratified_timesteps(purpose: str, seed: int, identity: str, count: int, train_timesteps: int) -> np.ndarray:
    """`count` timesteps in [0, T), one uniformly from each of `count` equal strata, int64."""
    position = (np.arange(count) + uniforms(purpose, seed, identity, count)) / count
    result: np.ndarray = np.minimum((position * train_timesteps).astype(np.int64), train_timesteps - 1)
    return result
