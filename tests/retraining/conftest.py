"""Trainings that take a second or two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny import write_training_set
from unsee.params import Params, TrainParams, load_params
from unsee.records.training_set import TrainingSet
from unsee.retraining.denoiser import DenoiserData

TRAIN = {
    "train.vae_channels": [16, 16],
    "train.vae_steps": 6,
    "train.vae_batch_size": 6,
    "train.unet_channels": [16],
    "train.unet_steps": 6,
    "train.unet_batch_size": 6,
    "train.checkpoint_every": 2,
    "train.processes": 1,
}


@pytest.fixture
def small(tmp_path: Path) -> Params:
    return load_params(None, {**TRAIN, "run.device": "cpu", "run.cache": str(tmp_path / "cache")})


@pytest.fixture
def train(small: Params) -> TrainParams:
    return small.train


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return write_training_set(tmp_path_factory.mktemp("few") / "set", count=10, resolution=8)


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """[10, 3, 8, 8]: five grey squares at different places, and their negatives."""
    pictures = torch.full((5, 3, 8, 8), -1.0)
    for number in range(5):
        pictures[number, :, number : number + 3, 1:6] = 1.0 - 0.2 * number
    return torch.cat([pictures, -pictures])


@pytest.fixture(scope="session")
def denoiser_data() -> DenoiserData:
    """Ten records of random latents; every other one has two captions."""
    draw = torch.Generator().manual_seed(5)
    return DenoiserData(
        records=[f"record-{number}" for number in range(10)],
        latents=torch.randn(10, 4, 4, 4, generator=draw),
        mirrored=None,
        texts=torch.randn(11, 5, 12, generator=draw),
        empty_text=torch.zeros(1, 5, 12),
        captions=[[number, 10][: 1 + number % 2] for number in range(10)],
    )
