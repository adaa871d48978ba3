"""Component `verify`; what it does is in `unsee.steps.verify`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def verify(
    params: str,
    train_reference: dsl.Input[dsl.Model],
    make_queries: dsl.Input[dsl.Dataset],
    retrain: dsl.Input[dsl.Artifact],
    counterfactual: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Measure what the models that were trained without some records have lost on the queries.

    Delta-L is the rise of a query's loss, Delta-G how far the picture drawn from the same prompt and noise has moved.

    Args:
        params: What the planner hands to this step: its params, as JSON.
        train_reference: The audited model.
        make_queries: The QuerySet.
        retrain: The retrained models, in parts.
        counterfactual: The result, an artifact folder.
        metrics: The result's scalars.
    """
    from unsee.steps import verify
    from unsee.steps.task import run_task

    inputs = {"train_reference": train_reference, "make_queries": make_queries, "retrain": retrain}
    run_task(verify.run, params, inputs, counterfactual, metrics)
