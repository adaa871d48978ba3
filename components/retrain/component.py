"""Component `retrain`; what it does is in `unsee.steps.retrain`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def retrain(
    params: str,
    version_data: dsl.Input[dsl.Dataset],
    train_reference: dsl.Input[dsl.Model],
    make_queries: dsl.Input[dsl.Dataset],
    score: dsl.Input[dsl.Artifact],
    retrained: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    part: str = "",
):
    """Train the model again without a query's top records, or without as many random ones.

    Everything else is as it was: initial weights, batches, timesteps and noise; what differs is the removal's work.

    Args:
        params: What the planner hands to this step: its params, as JSON.
        version_data: The TrainingSet.
        train_reference: The audited model.
        make_queries: The QuerySet.
        score: The Scores, in parts.
        retrained: The result, an artifact folder.
        metrics: The result's scalars.
        part: Which of the retrainings, `[index, number of parts]`; empty: all of them.
    """
    from unsee.steps import retrain
    from unsee.steps.task import run_task

    inputs = {
        "version_data": version_data,
        "train_reference": train_reference,
        "make_queries": make_queries,
        "score": score,
    }
    run_task(retrain.run, params, inputs, retrained, metrics, part)
