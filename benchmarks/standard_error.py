"""Does the stated standard error of a score match what other noise would have given?

A score's standard error comes from successive differences over a systematic timestep grid. Here the noise is drawn
eight more times for the audit's first query, with the same change of the weights, and the spread of each record's
score over the redraws is compared with the stated error, for all records and for the top 50.

Needs an audit in `audit/` (`make audit`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from results import ROOT, write_results
from unsee import artifacts
from unsee.attribution.grid import midpoint_grid
from unsee.attribution.losses import grid_losses
from unsee.attribution.scoring import record_scores
from unsee.attribution.unlearned_weights import UnlearnedWeights
from unsee.models.encoded_set import EncodedSet
from unsee.models.pipeline import DiffusersModel
from unsee.models.weights import select_weights, shifted
from unsee.params import load_params

REDRAWS = 8
TOP = 50


def main() -> None:
    """Measure, then the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audit", type=Path, default=ROOT / "audit")
    audit = parser.parse_args().audit
    params = load_params()
    model = DiffusersModel.load(audit / "train_reference" / artifacts.PIPELINE, device="cpu")
    encoded = EncodedSet.load(audit / "encode")
    unlearned = UnlearnedWeights.load(audit / "unlearn")
    row = next(query for query in unlearned.queries if query.failure is None)
    weights = select_weights(model.denoiser, params.weights.preset)
    entries = encoded.entries((False,))
    scores, errors = [], []
    for seed in range(1000, 1000 + REDRAWS):
        grid = midpoint_grid(model.train_timesteps, params.loss.timesteps, 1, seed)
        size = params.run.batch_size
        before = grid_losses(model, encoded, entries, grid, batch_size=size)
        with shifted(weights, unlearned.change(row)):
            after = grid_losses(model, encoded, entries, grid, batch_size=size)
        result = record_scores(entries, before, after, grid)
        scores.append(result.score)
        errors.append(result.standard_error)
    spread = np.std(scores, axis=0, ddof=1)
    stated = np.sqrt(np.mean(np.square(errors), axis=0))
    top = np.argsort(-np.mean(scores, axis=0))[:TOP]
    figures = {
        "stated_over_spread_all": round(float(np.sqrt(np.mean(stated**2) / np.mean(spread**2))), 3),
        f"stated_over_spread_top_{TOP}": round(
            float(np.sqrt(np.mean(stated[top] ** 2) / np.mean(spread[top] ** 2))), 3
        ),
        "n_redraws": REDRAWS,
    }
    rows = [
        {
            "rank": rank + 1,
            "mean_score": float(np.mean(scores, axis=0)[i]),
            "spread": float(spread[i]),
            "stated": float(stated[i]),
        }
        for rank, i in enumerate(top)
    ]
    write_results("standard_error", figures, rows)


if __name__ == "__main__":
    main()
