"""The step: an artifact with the model, its digest and its curves; nothing left beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tiny import write_training_set
from unsee import artifacts
from unsee.errors import ArtifactError, InputError
from unsee.models.pipeline import model_digest
from unsee.params import Params, load_params
from unsee.steps import train_reference
from unsee.steps.common import MODEL_KIND, MODEL_SCHEMA_VERSION, audited_folder, audited_model


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    write_training_set(tmp_path / "version_data", count=10, resolution=8)
    return {"version_data": tmp_path / "version_data"}


def params(**changes: object) -> Params:
    values = {
        "train.vae_channels": [8, 8],
        "train.vae_steps": 3,
        "train.vae_batch_size": 4,
        "train.unet_channels": [8],
        "train.unet_steps": 3,
        "train.unet_batch_size": 4,
        "train.processes": 1,
        "run.device": "cpu",
    }
    return load_params(None, {**values, **changes})


def test_the_artifact_holds_the_model_and_how_it_was_trained(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "train_reference"
    train_reference.run(inputs, params(), out)
    header = artifacts.read_header(out, MODEL_KIND, MODEL_SCHEMA_VERSION)
    assert header.meta["model"] == model_digest(out / artifacts.PIPELINE)
    curves = json.loads((out / artifacts.TRAINING_LOG).read_text())
    assert header.meta["curves"] == curves
    for name in ("autoencoder_loss", "denoiser_loss"):
        step, value = curves[name][-1]
        assert step == 3
        assert header.meta["metrics"][f"final_{name}"] == value
        assert 0 < value < 10
    folders = {"train_reference": out}
    assert audited_folder(folders) == out / artifacts.PIPELINE
    assert audited_model(folders, params()).latent_shape == (4, 4, 4)
    assert {p.name for p in tmp_path.iterdir()} == {"version_data", "train_reference"}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_interrupted_step_leaves_only_its_checkpoints(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    from unsee.retraining import reference

    out = tmp_path / "task" / "train_reference"
    out.parent.mkdir()
    kept = tmp_path / "volume"
    if elsewhere:
        monkeypatch.setenv("UNSEE_CHECKPOINTS", str(kept))

    def works() -> list[Path]:
        return [p for p in (kept.iterdir() if elsewhere and kept.exists() else out.parent.iterdir()) if p != out]

    whole = tmp_path / "whole"
    train_reference.run(inputs, params(), whole)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(reference, "save_pipeline", stop)
        with pytest.raises(KeyboardInterrupt):
            train_reference.run(inputs, params(), out)
    assert not out.exists()
    assert not out.with_name("train_reference.part").exists()
    (work,) = works()
    assert work.is_dir()
    assert (work.parent == kept) is elsewhere
    train_reference.run(inputs, params(), out)
    assert works() == []
    digests = [artifacts.read_header(f, MODEL_KIND, MODEL_SCHEMA_VERSION).digest for f in (whole, out)]
    assert digests[0] == digests[1]


def test_a_users_own_model_is_noted_not_trained(inputs: dict[str, Path], tmp_path: Path, pipeline_folder: Path) -> None:
    out = tmp_path / "train_reference"
    own = params(**{"model.path": str(pipeline_folder)})
    train_reference.run(inputs, own, out)
    header = artifacts.read_header(out, MODEL_KIND, MODEL_SCHEMA_VERSION)
    assert header.meta["model"] == model_digest(pipeline_folder)
    assert audited_folder({"train_reference": out}) == pipeline_folder.resolve()
    assert {p.name for p in out.iterdir()} == {artifacts.HEADER}
    assert train_reference.outside(own) == train_reference.outside(own)
    assert train_reference.outside(params()) is None


def test_bad_inputs_leave_nothing(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "train_reference"
    with pytest.raises(InputError, match="is not a diffusers pipeline folder"):
        train_reference.run(inputs, params(**{"model.path": str(tmp_path)}), out)
    with pytest.raises(ArtifactError):
        train_reference.run({"version_data": tmp_path / "nowhere"}, params(), out)
    (inputs["version_data"] / artifacts.PICTURES).write_bytes(b"")
    with pytest.raises(ArtifactError):
        train_reference.run(inputs, params(), out)
    assert {p.name for p in tmp_path.iterdir()} == {"version_data"}
