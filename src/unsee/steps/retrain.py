"""Step `retrain` (optional): the audited model again, without a query's top records and without random ones."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unsee import artifacts
from unsee.artifacts import digest_of
from unsee.params import Params
from unsee.retraining.jobs import KIND, SCHEMA_VERSION, Job, chosen_queries, plan, removal_digest
from unsee.steps.registry import made_with
from unsee.versions import TRAINING_VERSION

if TYPE_CHECKING:
    from unsee.attribution.scores import Scores
    from unsee.records.query_set import QuerySet
    from unsee.retraining.machine import Machine
    from unsee.retraining.paired import Training
    from unsee.steps.common import Inputs

_ENTRY = "denoiser"
_SUFFIX = ".safetensors"

_log = logging.getLogger(__name__)


def run(inputs: Inputs, params: Params, out: Path) -> None:
    """Train every planned job, or those of one part; finished ones come from the cache.

    Where `retrain.enabled` is false the artifact holds no job and nothing is read. Checkpoints lie in `<out>.work`,
    or below UNSEE_CHECKPOINTS, until all jobs are finished.

    Args:
        inputs: `version_data`, `train_reference`, `make_queries`, `score`.
        params: all parameters.
        out: folder of the Retrained to write.

    Raises:
        InputError: the audited model's training cannot be repeated, or the params ask for what there is not.
    """
    meta: dict[str, Any] = {"enabled": params.retrain.enabled, "planned": 0, **made_with("retrain", params)}
    if not params.retrain.enabled:
        with artifacts.writing(out, KIND, SCHEMA_VERSION, meta):
            return
    from unsee.attribution.scores import Scores
    from unsee.records.query_set import QuerySet
    from unsee.records.training_set import TrainingSet
    from unsee.retraining.paired import replaying_machine, retrain, training_of
    from unsee.retraining.retrained import from_bytes, to_bytes, write_job
    from unsee.steps.common import (
        MODEL_KIND,
        MODEL_SCHEMA_VERSION,
        audited_folder,
        checkpoints,
        content_cache,
        require_same,
    )

    folder = inputs["train_reference"]
    # The weights are read below: what was altered would be trained again as if it were the audited model.
    training = training_of(artifacts.read_header(folder, MODEL_KIND, MODEL_SCHEMA_VERSION).meta, folder)
    training_set = TrainingSet.load(inputs["version_data"])
    queries, scores = QuerySet.load(inputs["make_queries"]), Scores.load(inputs["score"])
    require_same("make_queries", queries.meta["model"], training.model, queries.folder, "model")
    require_same("score", scores.meta["model"], training.model, scores.folder, "model")
    jobs = planned_jobs(queries, scores, params)
    machine = replaying_machine(training, params.run.device)
    _warn_of_another_machine(training, machine, params)
    mine = [number for number in range(len(jobs)) if _is_mine(number, params)]
    cache = content_cache(params)
    work = checkpoints(out, {"model": training.model, "scores": scores.digest, **made_with("retrain", params)})
    curves: dict[str, Any] = {}
    meta.update(
        {
            "planned": len(jobs),
            "model": training.model,
            "training_set": training.training_set,
            "queries": queries.digest,
            "scores": scores.digest,
            "metrics": {"retrainings": float(len(mine))},
        }
    )
    with artifacts.disk_errors(out), artifacts.writing(out, KIND, SCHEMA_VERSION, meta) as part:
        for number in mine:
            job = jobs[number]
            place = _place(training, machine, job)
            held = cache.read(place, _ENTRY, _SUFFIX)
            if held is None:
                outcome = retrain(
                    training,
                    training_set,
                    audited_folder(inputs),
                    job.removed,
                    work,
                    device=params.run.device,
                    checkpoint_every=params.train.checkpoint_every,
                    description=f"Retraining {number + 1} of {len(jobs)}",
                )
                cache.write(place, _ENTRY, to_bytes(outcome), _SUFFIX)
            else:
                outcome = from_bytes(held)
            write_job(part, number, job, machine, outcome)
            curves[f"retraining_{number:03d}_loss"] = outcome.curve
        if params.run.part is None:
            # Parts of one artifact must state the same; each job's folder has its curve in any case.
            meta["curves"] = curves
    shutil.rmtree(work, ignore_errors=True)


def planned_jobs(queries: QuerySet, scores: Scores, params: Params) -> list[Job]:
    """The retrainings that prove what the params choose; a query without a ranking has none.

    Raises:
        InputError: there is no query of a chosen number, or as many records are to be removed as there are.
    """
    if not params.retrain.enabled:
        return []
    rankings = {}
    for query in chosen_queries(params.retrain, [query.query for query in queries.queries]):
        failure = scores.summaries[query].failure
        if failure is None:
            rankings[query] = scores.ranking(query).records
        else:
            _log.warning("query %s cannot be proven by retraining, it has no ranking: %s", query, failure)
    return plan(rankings, params.retrain, params.seed)


def _is_mine(number: int, params: Params) -> bool:
    index, of = params.run.part or (0, 1)
    return number % of == index


def _warn_of_another_machine(training: Training, machine: Machine, params: Params) -> None:
    if machine != training.machine and not params.retrain.nothing_removed:
        _log.warning(
            "this machine rounds differently from the one that trained the audited model (%s; then %s): set "
            "retrain.nothing_removed to measure against a retraining with nothing removed",
            machine.facts(),
            training.machine.facts(),
        )


def _place(training: Training, machine: Machine, job: Job) -> str:
    from unsee.retraining.recipe import RECIPE_VERSION

    spec = {
        "versions": [RECIPE_VERSION, TRAINING_VERSION],
        "model": training.model,
        "training_set": training.training_set,
        "seed": training.seed,
        "plan": dict(training.plan),
        "machine": machine.facts(),
        "removed": removal_digest(job.removed),
    }
    return f"retrained/{digest_of(spec)}"
