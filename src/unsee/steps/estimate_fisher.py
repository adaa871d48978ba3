"""Step `estimate_fisher`: the diagonal Fisher information of the selected weights over the training set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from unsee import artifacts
from unsee.attribution import fisher_artifact
from unsee.attribution.fisher import FisherSums, fisher_draws, fisher_sums, merge
from unsee.errors import InputError
from unsee.params import Params
from unsee.progress import Progress
from unsee.records.sharding import split_records
from unsee.steps.common import (
    Inputs,
    audited_model,
    compute_type,
    content_cache,
    encoded_by,
    flips,
    moved_weights,
    part_of,
    parts_in_all,
)
from unsee.steps.registry import made_with

_ENTRY = "sums"


def run(inputs: Inputs, params: Params, out: Path) -> None:
    """Sum squared per-record gradients, of all records or of one part, taking finished shards from the cache.

    Args:
        inputs: `train_reference`, `encode`.
        params: all parameters.
        out: folder of the Fisher to write.
    """
    model = audited_model(inputs, params)
    weights = moved_weights(model, params)
    encoded = encoded_by(model, inputs)
    cache = content_cache(params)
    mirrored, draws = flips(params, model), params.fisher.draws
    part = part_of(encoded, params)
    mine = [record for record in encoded.records if part is None or record in part]
    total = FisherSums({name: torch.zeros(p.shape, dtype=torch.float64) for name, p in weights.items()}, 0)
    meta: dict[str, Any] = {}
    with (
        artifacts.writing(out, fisher_artifact.KIND, fisher_artifact.SCHEMA_VERSION, meta) as folder,
        Progress("Fisher information", total=len(mine) * draws, unit="gradient") as progress,
    ):
        for records in split_records(mine, params.run.shards, within=parts_in_all(params)):
            keys = encoded.entries(mirrored, set(records)).keys().to_pylist()
            place = fisher_artifact.shard_place(
                model.digest, list(weights), keys, draws=draws, seed=params.seed, dtype=compute_type(params, weights)
            )
            held = cache.read(place, _ENTRY, fisher_artifact.SUFFIX)
            if held is None:
                sums = fisher_sums(
                    model,
                    encoded,
                    weights,
                    fisher_draws(encoded, records, mirrored, draws, params.seed, model.train_timesteps),
                    seed=params.seed,
                    batch_size=params.run.batch_size,
                    advance=progress.advance,
                )
                _require_finite(sums, inputs["train_reference"])
                cache.write(place, _ENTRY, fisher_artifact.sums_to_bytes(sums), fisher_artifact.SUFFIX)
            else:
                sums = fisher_artifact.sums_from_bytes(held)
                progress.advance(sums.count)
            total = merge([total, sums])
        fisher_artifact.write_fisher(folder, total)
        meta.update(
            {
                "model": model.digest,
                "encoded_set": encoded.digest,
                "counts": {"records": len(mine), "draws": total.count},
                "moved_weights": sum(values.numel() for values in total.sums.values()),
                "preset": params.weights.preset if params.weights.patterns is None else params.weights.patterns,
                **made_with("estimate_fisher", params),
            }
        )


def _require_finite(sums: FisherSums, model: Path) -> None:
    bad = next((name for name, values in sums.sums.items() if not torch.isfinite(values).all()), None)
    if bad is not None:
        raise InputError(
            f"gives a gradient that is not finite for {bad}.",
            file=model,
            remedy="Audit a model whose weights are finite; run.dtype=float32 has the widest range.",
        )
