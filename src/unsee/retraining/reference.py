"""Training the reference model: autoencoder, then denoiser, by one process or several."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from unsee.artifacts import digest_of
from unsee.models.pipeline import pick_device
from unsee.params import Params
from unsee.progress import Progress
from unsee.records.training_set import TrainingSet
from unsee.retraining.autoencoder import train_autoencoder
from unsee.retraining.denoiser import train_denoiser
from unsee.retraining.encoding import all_pixels, denoiser_data, save_tensors, training_tensors
from unsee.retraining.group import train_together
from unsee.retraining.loop import Checkpoints
from unsee.retraining.machine import machine_for
from unsee.retraining.pipeline_folder import assemble, load_text_parts, save_pipeline
from unsee.retraining.recipe import RECIPE_VERSION, plan_of
from unsee.retraining.team import Team

Curves = dict[str, list[tuple[int, float]]]

_VAE, _ENCODED = "vae", "encoded.safetensors"


def train_reference(training_set: TrainingSet, params: Params, work: Path, pipeline: Path) -> Curves:
    """Train on `training_set` and write the pipeline folder; returns the training curves.

    Args:
        work: folder for checkpoints; a killed training goes on from there. The caller removes it.
        pipeline: folder to write.

    Raises:
        EnvironmentProblem: a package or device is missing, the disk is full, or a helping process died.
    """
    device = pick_device(params.run.device)
    machine = machine_for(params.train, device)
    return train_together(
        _train,
        (training_set.folder, params, work, pipeline, str(device)),
        processes=machine.processes,
        threads=machine.threads,
        work=work,
    )


def _train(team: Team, folder: Path, params: Params, work: Path, pipeline: Path, where: str) -> Curves:
    training_set = TrainingSet.load(folder, verify=False)
    device = torch.device(where)
    train = params.train
    spec = {
        "recipe": RECIPE_VERSION,
        "data": training_set.digest,
        "seed": params.seed,
        "train": plan_of(train),
    }
    fingerprint = digest_of(spec)

    def checkpoints(name: str) -> Checkpoints:
        return Checkpoints(work / name, train.checkpoint_every, fingerprint)

    curves: Curves = {}
    vae, encoded = work / f"{_VAE}-{fingerprint[:16]}", work / f"{fingerprint[:16]}-{_ENCODED}"
    if not encoded.exists():
        pixels = all_pixels(training_set)
        with Progress("Training the autoencoder", total=train.vae_steps, unit="step") as progress:
            autoencoder, curve = train_autoencoder(
                pixels,
                train,
                params.seed,
                device=device,
                team=team,
                checkpoints=checkpoints("autoencoder"),
                advance=progress.advance,
            )
        if team.leads:
            _keep(autoencoder, curve, pixels, training_set, params, vae, encoded)
    team.wait()
    tensors = load_file(encoded)
    curves["autoencoder_loss"] = [(int(step), value) for step, value in tensors.pop("curve").tolist()]
    with Progress("Training the denoiser", total=train.unet_steps, unit="step") as progress:
        denoiser, curve = train_denoiser(
            denoiser_data(training_set, tensors),
            train,
            params.seed,
            device=device,
            team=team,
            checkpoints=checkpoints("denoiser"),
            advance=progress.advance,
        )
    curves["denoiser_loss"] = curve
    if team.leads:
        text_encoder, tokenizer = load_text_parts(train.max_tokens)
        autoencoder = AutoencoderKL.from_pretrained(str(vae), local_files_only=True)
        # Diffusers notes where it was read from, which would make the model's digest depend on the work folder.
        autoencoder.register_to_config(_name_or_path="")
        pipe = assemble(autoencoder, denoiser.cpu(), text_encoder, tokenizer, train.prediction_type)
        save_pipeline(pipe, pipeline, {"flip": train.flip, "trained_by": "unsee", "seed": params.seed})
    return curves


def _keep(
    autoencoder: AutoencoderKL,
    curve: list[tuple[int, float]],
    pixels: torch.Tensor,
    training_set: TrainingSet,
    params: Params,
    vae: Path,
    encoded: Path,
) -> None:
    """Save the autoencoder, and what it and the text encoder make of the training set, for all processes to read."""
    text_encoder, tokenizer = load_text_parts(params.train.max_tokens)
    pipe = assemble(autoencoder, None, text_encoder, tokenizer, params.train.prediction_type)
    tensors = training_tensors(pipe, training_set, pixels, flip=params.train.flip)
    tensors["curve"] = torch.tensor(curve, dtype=torch.float64)
    shutil.rmtree(vae, ignore_errors=True)
    autoencoder.save_pretrained(vae)
    save_tensors(tensors, encoded)
