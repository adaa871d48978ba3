"""Step `cache_baseline`: every record's losses at the audited weights, once for all queries and later audits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unsee import artifacts
from unsee.attribution import loss_table
from unsee.attribution.losses import grid_losses
from unsee.errors import InputError
from unsee.params import Params
from unsee.progress import Progress
from unsee.steps.common import (
    Inputs,
    audited_model,
    compute_type,
    content_cache,
    encoded_by,
    flips,
    loss_grid,
    moved_weights,
    part_of,
    parts_in_all,
)
from unsee.steps.registry import made_with


def run(inputs: Inputs, params: Params, out: Path) -> None:
    """Measure, or find in the cache, the losses of every (record, caption, flip), or of one part, on the grid.

    Args:
        inputs: `train_reference`, `encode`.
        params: all parameters.
        out: folder of the LossTable to write.
    """
    model = audited_model(inputs, params)
    # The same layers compute in float32 here as after unlearning: both losses are to differ by the weights alone.
    computed_in = compute_type(params, moved_weights(model, params))
    encoded = encoded_by(model, inputs)
    grid = loss_grid(params, model)
    entries = encoded.entries(flips(params, model), part_of(encoded, params))
    meta: dict[str, Any] = {}
    with (
        artifacts.writing(out, loss_table.KIND, loss_table.SCHEMA_VERSION, meta) as part,
        Progress("Baseline losses", total=len(entries) * grid.points, unit="evaluation") as progress,
    ):
        losses = loss_table.cached_losses(
            content_cache(params),
            loss_table.cache_place(model.digest, grid, computed_in, None),
            entries,
            grid.points,
            lambda shard: grid_losses(
                model, encoded, shard, grid, batch_size=params.run.batch_size, advance=progress.advance
            ),
            shards=params.run.shards,
            within=parts_in_all(params),
            hit=lambda count: progress.advance(count * grid.points),
        )
        bad = next((e for e, row in zip(entries, losses, strict=True) if not np.isfinite(row).all()), None)
        if bad is not None:
            raise InputError(
                f"gives a loss that is not finite for record {bad.record}.",
                file=inputs["train_reference"],
                remedy="Audit a model whose weights are finite, or leave the record out.",
            )
        loss_table.write_losses(part, entries, losses)
        meta.update(
            loss_table.table_meta(
                model.digest,
                encoded.digest,
                grid,
                dtype=computed_in,
                flips=list(flips(params, model)),
                metrics={"mean_loss": float(losses.mean())} if len(entries) else {},
                **made_with("cache_baseline", params),
            )
        )
