"""Training the reference model: autoencoder, then denoiser, by one process or several."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from unsee.artifacts import digest_of
from unsee.errors import EnvironmentProblem
from unsee.models.encoded_set import pixels_to_unit
from unsee.models.pipeline import pick_device
from unsee.params import Params
from unsee.progress import Progress
from unsee.records.training_set import TrainingSet
from unsee.retraining.autoencoder import raw_latents, train_autoencoder
from unsee.retraining.denoiser import DenoiserData, train_denoiser
from unsee.retraining.loop import Checkpoints
from unsee.retraining.pipeline_folder import assemble, encode_texts, load_text_parts, save_pipeline
from unsee.retraining.recipe import RECIPE_VERSION
from unsee.retraining.team import Team

Curves = dict[str, list[tuple[int, float]]]

_POLL_SECONDS = 0.2
_VAE, _ENCODED = "vae", "encoded.safetensors"

_log = logging.getLogger(__name__)


def train_reference(training_set: TrainingSet, params: Params, work: Path, pipeline: Path) -> Curves:
    """Train on `training_set` and write the pipeline folder; returns the training curves.

    Args:
        work: folder for checkpoints; a killed training goes on from there. The caller removes it.
        pipeline: folder to write.

    Raises:
        EnvironmentProblem: a package or device is missing, the disk is full, or a helping process died.
    """
    work.mkdir(parents=True, exist_ok=True)
    device = pick_device(params.run.device)
    size = _team_size(params, device)
    threads = torch.get_num_threads()
    # A rendezvous file of a killed run would confuse this one.
    store = work / f"store-{os.getpid()}"
    store.unlink(missing_ok=True)
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Semaphore(0)
    arguments = (started, str(training_set.folder), params.model_dump(), str(work), str(store), size)
    helpers = [spawn.Process(target=_help, args=(rank, *arguments), daemon=True) for rank in range(1, size)]
    for helper in helpers:
        helper.start()
    team: Team | None = None
    try:
        _await(helpers, started)
        team = Team(0, size, store)
        return _train(team, training_set, params, work, pipeline, device)
    except RuntimeError as error:
        if any(helper.exitcode not in {None, 0} for helper in _joined(helpers)):
            problem = f"a process that trains along died ({' '.join(str(error).split())[:200]})."
            remedy = "Run the command again, it goes on from the last checkpoint; train.processes=1 needs less memory."
            raise EnvironmentProblem(problem, field="train.processes", remedy=remedy) from error
        raise
    finally:
        torch.set_num_threads(threads)
        if team is not None:
            team.part()
        for helper in helpers:
            helper.terminate()
            helper.join()
        store.unlink(missing_ok=True)


def _await(helpers: list[Any], started: Any) -> None:
    """Return once every helper runs: one that died before it joined would be waited for until the group's timeout."""
    for _ in helpers:
        while not started.acquire(timeout=_POLL_SECONDS):
            dead = [helper.exitcode for helper in helpers if helper.exitcode is not None]
            if dead:
                raise RuntimeError(f"exit code {dead[0]} before it began")


def _joined(helpers: list[Any]) -> list[Any]:
    for helper in helpers:
        helper.join(timeout=5)
    return helpers


def _team_size(params: Params, device: torch.device) -> int:
    if device.type != "cpu":
        return 1
    smallest_batch = min(params.train.vae_batch_size, params.train.unet_batch_size)
    return max(1, min(params.train.processes, os.cpu_count() or 1, smallest_batch))


def _help(rank: int, started: Any, folder: str, params: Mapping[str, Any], work: str, store: str, size: int) -> None:
    values = Params.model_validate(params)
    started.release()
    _train(
        Team(rank, size, Path(store)),
        TrainingSet.load(Path(folder), verify=False),
        values,
        Path(work),
        None,
        torch.device("cpu"),
    )


def _train(
    team: Team, training_set: TrainingSet, params: Params, work: Path, pipeline: Path | None, device: torch.device
) -> Curves:
    torch.set_num_threads(
        max(1, (os.cpu_count() or 1) // team.size) if device.type == "cpu" else torch.get_num_threads()
    )
    train = params.train
    plan = train.model_dump(exclude={"processes", "checkpoint_every"})
    spec = {"recipe": RECIPE_VERSION, "data": training_set.digest, "seed": params.seed, "train": plan}
    fingerprint = digest_of(spec)

    def checkpoints(name: str) -> Checkpoints:
        return Checkpoints(work / name, train.checkpoint_every, fingerprint)

    pixels = torch.cat([pixels_to_unit(batch) for _, batch in training_set.iter_pixels(256)])
    curves: Curves = {}
    vae, encoded = work / f"{_VAE}-{fingerprint[:16]}", work / f"{fingerprint[:16]}-{_ENCODED}"
    if not encoded.exists():
        with _shown(team, "Training the autoencoder", train.vae_steps) as progress:
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
    data = _data(training_set, tensors)
    with _shown(team, "Training the denoiser", train.unet_steps) as progress:
        denoiser, curve = train_denoiser(
            data,
            train,
            params.seed,
            device=device,
            team=team,
            checkpoints=checkpoints("denoiser"),
            advance=progress.advance,
        )
    curves["denoiser_loss"] = curve
    if pipeline is not None:
        text_encoder, tokenizer = load_text_parts(train.max_tokens)
        autoencoder = AutoencoderKL.from_pretrained(str(vae), local_files_only=True)
        # Diffusers notes where it was read from, which would make the model's digest depend on the work folder.
        autoencoder.register_to_config(_name_or_path="")
        pipe = assemble(autoencoder, denoiser.cpu(), text_encoder, tokenizer, train.prediction_type)
        save_pipeline(pipe, pipeline, {"flip": train.flip, "trained_by": "unsee", "seed": params.seed})
    return curves


def _shown(team: Team, description: str, steps: int) -> Progress:
    progress = Progress(description, total=steps, unit="step")
    if not team.leads:
        logging.getLogger("unsee").setLevel(logging.WARNING)
    return progress


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
    captions = list(dict.fromkeys(caption for record in training_set.records for caption in record.captions))
    pipe = assemble(autoencoder, None, text_encoder, tokenizer, params.train.prediction_type)
    tensors = {
        "latents": raw_latents(autoencoder, pixels),
        "texts": encode_texts(pipe, captions),
        "empty_text": encode_texts(pipe, [""]),
        "curve": torch.tensor(curve, dtype=torch.float64),
    }
    if params.train.flip:
        tensors["mirrored"] = raw_latents(autoencoder, pixels.flip(-1))
    shutil.rmtree(vae, ignore_errors=True)
    autoencoder.save_pretrained(vae)
    part = encoded.with_name(encoded.name + ".part")
    save_file({name: value.contiguous() for name, value in tensors.items()}, part)
    part.replace(encoded)


def _data(training_set: TrainingSet, tensors: Mapping[str, torch.Tensor]) -> DenoiserData:
    rows: dict[str, int] = {}
    captions = [[rows.setdefault(caption, len(rows)) for caption in r.captions] for r in training_set.records]
    return DenoiserData(
        records=[record.record for record in training_set.records],
        latents=tensors["latents"],
        mirrored=tensors.get("mirrored"),
        texts=tensors["texts"],
        empty_text=tensors["empty_text"],
        captions=captions,
    )
