"""Step `unlearn`: for every query, the change of the selected weights that unlearns it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save, save_file
from torch import Tensor

from unsee import artifacts
from unsee.artifacts import digest_of
from unsee.attribution import unlearned_weights, unlearning
from unsee.attribution.fisher import damped_inverse
from unsee.attribution.fisher_artifact import Fisher
from unsee.attribution.losses import Picture, Samples, split
from unsee.attribution.unlearned_weights import Unlearning, change_digest
from unsee.attribution.unlearning import Step
from unsee.errors import ArtifactError, QueryFailure
from unsee.models.pipeline import DiffusersModel
from unsee.models.weights import Weights
from unsee.params import Params
from unsee.progress import Progress
from unsee.records.query_set import Query, QuerySet
from unsee.steps.common import Inputs, audited_model, content_cache, moved_weights, require_same
from unsee.steps.registry import made_with
from unsee.versions import ENCODING_VERSION, NOISE_VERSION, UNLEARN_VERSION

_ENTRY = "step"
_SUFFIX = ".safetensors"
_NUMBERS = "numbers"

_log = logging.getLogger(__name__)


def run(inputs: Inputs, params: Params, out: Path) -> None:
    """Unlearn every usable query; one that cannot be unlearned fails with its reason and the others go on.

    Args:
        inputs: `train_reference`, `make_queries`, `estimate_fisher`.
        params: all parameters.
        out: folder of the UnlearnedWeights to write.
    """
    queries = QuerySet.load(inputs["make_queries"])
    fisher = Fisher.load(inputs["estimate_fisher"])
    model = audited_model(inputs, params)
    weights = moved_weights(model, params)
    require_same("make_queries", queries.meta["model"], model.digest, queries.folder, "model")
    require_same("estimate_fisher", fisher.meta["model"], model.digest, fisher.folder, "model")
    if set(fisher.sums.sums) != set(weights):
        raise ArtifactError(
            "is of other weights than the params select.",
            file=fisher.folder,
            field="preset",
            remedy="Run the step estimate_fisher again.",
        )
    damping = 0.0 if params.compat == "official" else params.unlearn.damping
    inverse = damped_inverse(fisher.sums.mean(), damping)
    cache = content_cache(params)
    mine = _mine(queries.queries, params)
    rows: list[Unlearning] = []
    meta: dict[str, Any] = {
        "model": model.digest,
        "fisher": fisher.digest,
        "queries": queries.digest,
        "weights": sorted(weights),
        **made_with("unlearn", params),
    }
    with (
        artifacts.writing(out, unlearned_weights.KIND, unlearned_weights.SCHEMA_VERSION, meta) as part,
        Progress("Unlearning queries", total=len(mine), unit="query") as progress,
    ):
        for query in mine:
            if query.failure is not None:
                rows.append(_failed(query.query, query.failure))
                progress.advance(1)
                continue
            place = _place(params, model.digest, fisher.digest, query.query)
            held = cache.read(place, _ENTRY, _SUFFIX)
            try:
                if held is None:
                    picture = Picture(query.query, queries.latent(query.query), queries.text(query.query))
                    step = _unlearn(model, weights, inverse, picture, params, fisher.records)
                    cache.write(place, _ENTRY, _to_bytes(step), _SUFFIX)
                else:
                    step = _from_bytes(held)
            except QueryFailure as error:
                _log.warning("query '%s' failed: %s", query.prompt, error)
                rows.append(_failed(query.query, str(error)))
            else:
                rows.append(_written(part, query.query, step))
            progress.advance(1)
        unlearned_weights.write_unlearnings(part, rows)
        meta["metrics"] = {"failed_queries": float(sum(row.failure is not None for row in rows))}


def _mine(queries: Sequence[Query], params: Params) -> Sequence[Query]:
    """The queries that this run is about: all, or an even stretch of them."""
    if params.run.part is None:
        return queries
    index, of = params.run.part
    return queries[index * len(queries) // of : (index + 1) * len(queries) // of]


def _unlearn(
    model: DiffusersModel,
    weights: Weights,
    inverse: dict[str, Tensor],
    picture: Picture,
    params: Params,
    records: int,
) -> Step:
    asked, seed, timesteps = params.unlearn, params.seed, model.train_timesteps
    size = params.run.batch_size
    official = params.compat == "official"
    if official:
        whole = unlearning.official_batches(
            picture, batches=asked.official_batches, seed=seed, train_timesteps=timesteps
        )
        batches: Iterable[Samples] = (part for batch in whole for part in split(batch, size))
    else:
        batches = unlearning.gradient_batches(
            picture, samples=asked.samples, seed=seed, train_timesteps=timesteps, batch_size=size
        )
    gradient = unlearning.query_gradient(model, weights, batches)
    direction = unlearning.newton_direction(gradient, inverse)
    probe = unlearning.probe_batches(
        picture, samples=asked.probe_samples, seed=seed, train_timesteps=timesteps, batch_size=size
    )
    if official:
        return unlearning.official_step(model, weights, direction, probe, records=records, alpha=asked.official_alpha)
    return unlearning.step_by_effect(
        model, weights, gradient, direction, probe, records=records, loss_ratio=asked.loss_ratio
    )


def _place(params: Params, model: str, fisher: str, query: str) -> str:
    spec = {
        "unlearn_version": UNLEARN_VERSION,
        "noise_version": NOISE_VERSION,
        "encoding_version": ENCODING_VERSION,
        "model": model,
        "fisher": fisher,
        "query": query,
        "compat": params.compat,
        "unlearn": params.unlearn.model_dump(),
        "seed": params.seed,
        "dtype": params.run.dtype,
    }
    return f"unlearned/{digest_of(spec)}"


_NUMBER_FIELDS = ("alpha", "loss_before", "loss_after", "reached", "probes")


def _to_bytes(step: Step) -> bytes:
    numbers = torch.tensor([float(getattr(step, name)) for name in _NUMBER_FIELDS], dtype=torch.float64)
    data: bytes = save({**step.change, _NUMBERS: numbers})
    return data


def _from_bytes(data: bytes) -> Step:
    tensors = load(data)
    alpha, before, after, reached, probes = tensors.pop(_NUMBERS).tolist()
    return Step(tensors, alpha, before, after, bool(reached), int(probes))


def _written(part: Path, query: str, step: Step) -> Unlearning:
    name = f"{query}.safetensors"
    save_file(dict(step.change), part / name)
    return Unlearning(
        query,
        name,
        change_digest(step.change),
        step.alpha,
        step.loss_before,
        step.loss_after,
        step.reached,
        step.probes,
        failure=None,
    )


def _failed(query: str, reason: str) -> Unlearning:
    return Unlearning(query, None, None, None, None, None, None, None, failure=reason)
