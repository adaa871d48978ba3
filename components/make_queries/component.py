"""Component `make_queries`; what it does is in `unsee.steps.make_queries`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def make_queries(
    params: str,
    train_reference: dsl.Input[dsl.Model],
    queries: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """Draw the pictures that are asked about, or take the ones that were given.

    A picture that cannot be read fails its own query, not the audit.

    Args:
        params: What the planner hands to this step: its params, as JSON.
        train_reference: The audited model.
        queries: The result, an artifact folder.
        metrics: The result's scalars.
    """
    from unsee.steps import make_queries
    from unsee.steps.task import run_task

    inputs = {"train_reference": train_reference}
    run_task(make_queries.run, params, inputs, queries, metrics)
