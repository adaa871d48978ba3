"""Step `cache_baseline`: every record's losses at the audited weights, once for all queries and later audits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unsee import artifacts
from unsee.attribution import loss_table
from unsee.attribution.losses import grid_losses
from unsee.models.encoded_set import EncodedSet
from unsee.params import Params
from unsee.progress import Progress
from unsee.steps.common import Inputs, audited_model, content_cache, flips, loss_grid


def run(inputs: Inputs, params: Params, out: Path) -> None:
    """Measure, or find in the cache, the losses of every (record, caption, flip) on the grid.

    Args:
        inputs: `train_reference`, `encode`.
        params: all parameters.
        out: folder of the LossTable to write.
    """
    encoded = EncodedSet.load(inputs["encode"])
    model = audited_model(inputs, params)
    grid = loss_grid(params, model)
    entries = encoded.entries(flips(params, model))
    meta: dict[str, Any] = {}
    with (
        artifacts.writing(out, loss_table.KIND, loss_table.SCHEMA_VERSION, meta) as part,
        Progress("Baseline losses", total=len(entries) * grid.points, unit="evaluation") as progress,
    ):
        losses = loss_table.cached_losses(
            content_cache(params),
            loss_table.cache_place(model.digest, grid, params.run.dtype, None),
            entries,
            grid.points,
            lambda shard: grid_losses(
                model, encoded, shard, grid, batch_size=params.run.batch_size, advance=progress.advance
            ),
            shards=params.run.shards,
            hit=lambda count: progress.advance(count * grid.points),
        )
        loss_table.write_losses(part, entries, losses)
        meta.update(
            loss_table.table_meta(model.digest, encoded.digest, grid, metrics={"mean_loss": float(losses.mean())})
        )
