"""Training the audited denoiser again: with nothing removed it is the same, bit for bit."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tiny import write_training_set
from unsee.errors import ArtifactError, EnvironmentProblem, InputError
from unsee.models.pipeline import model_digest
from unsee.params import Params, load_params
from unsee.records.training_set import TrainingSet
from unsee.retraining import group, paired
from unsee.retraining.encoding import denoiser_data
from unsee.retraining.loop import Checkpoints
from unsee.retraining.paired import Training, replaying_machine, retrain, training_facts, training_of
from unsee.retraining.reference import train_reference
from unsee.retraining.team import Team

TRAIN = {
    "train.vae_channels": [16, 16],
    "train.vae_steps": 3,
    "train.vae_batch_size": 6,
    "train.unet_channels": [16],
    "train.unet_steps": 6,
    "train.unet_batch_size": 6,
    "train.checkpoint_every": 2,
    "train.processes": 1,
}
UNET = "unet/diffusion_pytorch_model.safetensors"


@dataclass
class Audited:
    """A trained model, and how it was trained."""

    records: TrainingSet
    params: Params
    pipeline: Path
    meta: Mapping[str, Any]

    @property
    def training(self) -> Training:
        return training_of(self.meta, self.pipeline)

    def again(self, removed: set[str], work: Path, **changes: Any) -> paired.Outcome:
        settings = {"device": "cpu", "checkpoint_every": 2, **changes}
        return retrain(self.training, self.records, self.pipeline, removed, work, **settings)


def audited(records: TrainingSet, folder: Path, *, cores: int = 1, **changes: Any) -> Audited:
    """A model trained on a machine of so many cores."""
    values = {**TRAIN, **{f"train.{name}": value for name, value in changes.items()}}
    params = load_params(None, {**values, "run.device": "cpu"})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "cpu_count", lambda: cores)
        train_reference(records, params, folder / "work", folder / "pipeline")
        facts = training_facts(params)
    digests = {"model": model_digest(folder / "pipeline"), "training_set": records.digest}
    meta = json.loads(json.dumps({**digests, "training": facts}))
    return Audited(records, params, folder / "pipeline", meta)


def flat(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


@pytest.fixture(scope="module")
def one(few_digits: TrainingSet, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return audited(few_digits, tmp_path_factory.mktemp("audited"))


@pytest.mark.parametrize("changes", [{}, {"flip": True, "caption_dropout": 0.3, "prediction_type": "epsilon"}])
def test_with_nothing_removed_the_audited_weights_come_out(
    few_digits: TrainingSet, tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = audited(few_digits, tmp_path / "audited", **changes)
    state = torch.get_rng_state()
    again = model.again(set(), tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    expected = load_file(model.pipeline / UNET)
    assert again.weights.keys() == expected.keys()
    assert all(torch.equal(again.weights[name], value) for name, value in expected.items())


@pytest.mark.slow
def test_with_two_processes_too(few_digits: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = audited(few_digits, tmp_path / "audited", cores=2, processes=2)
    assert model.training.machine.processes == 2
    # However many cores there are now: the audited training had two processes of one thread.
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    again = model.again(set(), tmp_path / "again")
    assert torch.equal(flat(again.weights), flat(load_file(model.pipeline / UNET)))


def test_a_removal_masks_its_records_and_nothing_else(one: Audited, tmp_path: Path) -> None:
    """The same weights as training on the same tensors with those records masked, whichever job came first."""
    gone = {one.records.records[row].record for row in (1, 4, 7)}
    work = tmp_path / "again"
    other = one.again(gone - {one.records.records[1].record}, work)
    again = one.again(gone, work)
    [encoded] = work.glob("*-encoded.safetensors")
    masked, curve = paired.train_denoiser(
        denoiser_data(one.records, load_file(encoded)),
        one.params.train,
        one.params.seed,
        device=torch.device("cpu"),
        team=Team(),
        checkpoints=Checkpoints(tmp_path / "by-hand", 100, "by hand"),
        removed=frozenset(gone),
    )
    assert torch.equal(flat(again.weights), flat(masked.state_dict()))
    assert again.curve == curve
    for different in (flat(other.weights), flat(load_file(one.pipeline / UNET))):
        assert not torch.equal(flat(again.weights), different)


def test_an_interrupted_retraining_goes_on_where_it_was(
    one: Audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {one.records.records[0].record}
    whole = one.again(gone, tmp_path / "whole")
    seen: list[int] = []

    class Stopping(paired.Progress):
        def advance(self, count: int = 1) -> None:
            seen.append(count)
            if sum(seen) == 5:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(paired, "Progress", Stopping)
        with pytest.raises(KeyboardInterrupt):
            one.again(gone, tmp_path / "work")
        # Another removal in the same folder neither takes that checkpoint up nor disturbs it.
        seen[:] = [100]
        assert not torch.equal(flat(one.again(set(), tmp_path / "work").weights), flat(whole.weights))
        assert seen[1] == 0
        seen[:] = [100]
        resumed = one.again(gone, tmp_path / "work")
        assert seen[1:] == [4, 1, 1]
    assert torch.equal(flat(resumed.weights), flat(whole.weights))
    assert resumed.curve == whole.curve


SCRIPT = """
import json, sys
from pathlib import Path
from unsee.records.training_set import TrainingSet
from unsee.retraining.paired import retrain, training_of
records, pipeline, work = map(Path, sys.argv[1:4])
training = training_of(json.loads(sys.argv[4]), pipeline)
retrain(training, TrainingSet.load(records), pipeline, json.loads(sys.argv[5]), work, device="cpu", checkpoint_every=3)
"""


@pytest.mark.slow
def test_a_killed_retraining_ends_as_if_it_had_not_been(few_digits: TrainingSet, tmp_path: Path) -> None:
    model = audited(few_digits, tmp_path / "audited", unet_steps=30)
    gone = [few_digits.records[2].record]
    whole = model.again(set(gone), tmp_path / "whole")
    work = tmp_path / "work"
    told = [str(few_digits.folder), str(model.pipeline), str(work), json.dumps(dict(model.meta)), json.dumps(gone)]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *told], stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not list(work.glob("*/state.json")) and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    resumed = model.again(set(gone), work)
    assert torch.equal(flat(resumed.weights), flat(whole.weights))
    assert resumed.curve == whole.curve


@pytest.mark.slow
def test_a_helper_that_dies_is_reported(
    few_digits: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = audited(few_digits, tmp_path / "audited", cores=2, processes=2)
    monkeypatch.setattr(group, "_help", os._exit)
    with pytest.raises(EnvironmentProblem, match=r"train.processes: a process that trains along died"):
        model.again(set(), tmp_path / "again")


def test_what_does_not_belong_together_is_refused(one: Audited, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not hold the record nobody"):
        one.again({"nobody"}, tmp_path / "again")
    other = replace(one, records=write_training_set(tmp_path / "other", count=9, resolution=8))
    with pytest.raises(ArtifactError, match="is not the training set that the model was trained on"):
        other.again(set(), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_model_of_the_users_own_cannot_be_replayed(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        training_of({"external": "/models/mine", "model": "0" * 64}, tmp_path)
    assert (caught.value.file, caught.value.field) == ("/models/mine", "model.path")
    assert "retrain.enabled" in caught.value.remedy


def harmed(meta: Mapping[str, Any], *path: str, value: Any = None) -> dict[str, Any]:
    meta = copy.deepcopy(dict(meta))
    target = meta
    for key in path[:-1]:
        target = target[key]
    if value is None:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return meta


def test_a_model_that_does_not_say_how_it_was_trained_is_refused(one: Audited, tmp_path: Path) -> None:
    for meta, field in [
        (harmed(one.meta, "training"), "training"),
        (harmed(one.meta, "training", "versions", value=[1, 99]), "training.versions"),
        (harmed(one.meta, "training", "machine"), "training"),
        (harmed(one.meta, "training", "machine", "threads"), "training"),
        (harmed(one.meta, "training_set"), "training"),
        (harmed(one.meta, "training", "seed", value="x"), "training"),
    ]:
        with pytest.raises(InputError) as caught:
            training_of(meta, tmp_path)
        assert (caught.value.file, caught.value.field) == (str(tmp_path), field)
        assert "train_reference" in caught.value.remedy


def test_the_audited_trainings_processes_and_threads_are_kept(one: Audited) -> None:
    training = one.training
    assert replaying_machine(training, "cpu") == training.machine
    crowd = replace(training, machine=replace(training.machine, processes=3, threads=5))
    assert replaying_machine(crowd, "cpu") == crowd.machine
    with pytest.raises(EnvironmentProblem, match=r"run\.device"):
        replaying_machine(training, "cuda:99")
