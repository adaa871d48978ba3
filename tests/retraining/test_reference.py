"""The whole training: one process or two, killed and resumed, and what becomes of a process that dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unsee.errors import EnvironmentProblem
from unsee.models.pipeline import DiffusersModel, model_digest
from unsee.params import Params
from unsee.records.training_set import TrainingSet
from unsee.retraining import group, machine, reference
from unsee.retraining.machine import machine_for
from unsee.retraining.reference import train_reference

VAE, UNET = "vae/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"


def trained(records: TrainingSet, params: Params, folder: Path, **changes: object):
    """Curves and pipeline folder of a training with some keys of the section `train` changed."""
    section = params.train.model_copy(update=changes)
    curves = train_reference(
        records, params.model_copy(update={"train": section}), folder / "work", folder / "pipeline"
    )
    return curves, folder / "pipeline"


def test_the_pipeline_is_complete_and_reproducible(few_digits: TrainingSet, small: Params, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    curves, first = trained(few_digits, small, tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 1
    again, second = trained(few_digits, small, tmp_path / "b")
    assert model_digest(first) == model_digest(second)
    assert curves == again
    assert {name: points[-1][0] for name, points in curves.items()} == {"autoencoder_loss": 6, "denoiser_loss": 6}
    assert json.loads((first / "unsee.json").read_text())["flip"] is False
    model = DiffusersModel.load(first, device="cpu")
    assert model.resolution == 8
    assert model.generate(["the digit 3"], [0], guidance=2.0, steps=2)[0].shape == (8, 8, 3)


def test_flips_are_recorded(few_digits: TrainingSet, small: Params, tmp_path: Path) -> None:
    _, plain = trained(few_digits, small, tmp_path / "a")
    _, flipped = trained(few_digits, small, tmp_path / "b", flip=True)
    assert DiffusersModel.load(flipped, device="cpu").trained_with_flips
    for part in (VAE, UNET):
        assert (plain / part).read_bytes() != (flipped / part).read_bytes()


@pytest.mark.slow
def test_two_processes_train_as_one(few_digits: TrainingSet, small: Params, tmp_path: Path) -> None:
    alone, one = trained(few_digits, small, tmp_path / "a")
    together, two = trained(few_digits, small, tmp_path / "b", processes=2)
    for name, points in alone.items():
        assert together[name] == [(step, pytest.approx(value, rel=1e-4)) for step, value in points]
    for part in (VAE, UNET):
        expected, found = load_file(one / part), load_file(two / part)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=2e-3, rtol=2e-3)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_helper_that_dies_is_reported(
    few_digits: TrainingSet, small: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killing(reference.Progress):
        def advance(self, count: int = 1) -> None:
            super().advance(count)
            if self.done == 2:
                for child in multiprocessing.active_children():
                    os.kill(child.pid or 0, signal.SIGKILL)

    monkeypatch.setattr(reference, "Progress", Killing)
    start = time.monotonic()
    with pytest.raises(EnvironmentProblem, match=r"train.processes: a process that trains along died"):
        trained(few_digits, small, tmp_path, processes=2, vae_steps=500)
    assert time.monotonic() - start < 60
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_helper_that_cannot_start_is_reported(
    few_digits: TrainingSet, small: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Called with the wrong arguments it raises before it joins the others.
    monkeypatch.setattr(group, "_help", os.getpid)
    start = time.monotonic()
    with pytest.raises(EnvironmentProblem, match=r"train.processes: a process that trains along died"):
        trained(few_digits, small, tmp_path, processes=2)
    assert time.monotonic() - start < 60


def test_more_processes_than_work_or_cores_are_not_started(small: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    def size(processes: int, device: str = "cpu") -> int:
        section = small.train.model_copy(update={"processes": processes})
        return machine_for(section, torch.device(device)).processes

    monkeypatch.setattr(machine, "usable_processors", lambda: 64)
    assert size(1) == 1
    assert size(4) == 4
    assert size(40) == 6  # the smaller batch
    assert size(4, "meta") == 1
    monkeypatch.setattr(machine, "usable_processors", lambda: 2)
    assert size(4) == 2


SCRIPT = """
import os, sys
os.cpu_count = lambda: 1
from pathlib import Path
from unsee.params import load_params
from unsee.records.training_set import TrainingSet
from unsee.retraining.reference import train_reference
import json, torch
torch.set_num_threads(1)
records, folder, values = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
train_reference(TrainingSet.load(records), load_params(None, values), folder / "work", folder / "pipeline")
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["autoencoder", "denoiser"])
def test_a_killed_training_ends_as_if_it_had_not_been(
    few_digits: TrainingSet, small: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    # One thread on both sides: the number of threads decides the order of sums.
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    steps = {"vae_steps": 24, "unet_steps": 24, "checkpoint_every": 4}
    _, whole = trained(few_digits, small, tmp_path / "a", **steps)
    section = small.train.model_copy(update=steps)
    values = {f"train.{name}": value for name, value in section.model_dump().items()} | {"run.device": "cpu"}
    folder = tmp_path / "b"
    command = [sys.executable, "-c", SCRIPT, str(few_digits.folder), str(folder), json.dumps(values)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    facts = folder / "work" / part / "state.json"
    limit = time.monotonic() + 60
    while not facts.exists() and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "pipeline").exists()
    _, resumed = trained(few_digits, small, folder, **steps)
    assert model_digest(resumed) == model_digest(whole)
