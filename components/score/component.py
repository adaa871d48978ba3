"""Component `score`; what it does is in `unsee.steps.score`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def score(
    params: str,
    train_reference: dsl.Input[dsl.Model],
    encode: dsl.Input[dsl.Dataset],
    cache_baseline: dsl.Input[dsl.Artifact],
    unlearn: dsl.Input[dsl.Artifact],
    scores: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    part: str = "",
):
    """Measure whose training loss rose when a query was unlearned.

    Finished units of work come from the cache, so that a task that was killed goes on where it stopped.

    Args:
        params: What the planner hands to this step: its params, as JSON.
        train_reference: The audited model.
        encode: The EncodedSet.
        cache_baseline: The LossTable, in parts.
        unlearn: The UnlearnedWeights, in parts.
        scores: The result, an artifact folder.
        metrics: The result's scalars.
        part: Which part of the work, `[index, number of parts]`; empty: all of it.
    """
    from unsee.steps import score
    from unsee.steps.task import run_task

    inputs = {
        "train_reference": train_reference,
        "encode": encode,
        "cache_baseline": cache_baseline,
        "unlearn": unlearn,
    }
    run_task(score.run, params, inputs, scores, metrics, part)
