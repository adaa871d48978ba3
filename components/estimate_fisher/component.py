"""Component `estimate_fisher`; what it does is in `unsee.steps.estimate_fisher`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def estimate_fisher(
    params: str,
    train_reference: dsl.Input[dsl.Model],
    encode: dsl.Input[dsl.Dataset],
    fisher: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    part: str = "",
):
    """Sum the squared per-record gradients of the weights that will move.

    Parts are sums and counts in float64, and add up.

    Args:
        params: What the planner hands to this step: its params, as JSON.
        train_reference: The audited model.
        encode: The EncodedSet.
        fisher: The result, an artifact folder.
        metrics: The result's scalars.
        part: Which part of the work, `[index, number of parts]`; empty: all of it.
    """
    from unsee.steps import estimate_fisher
    from unsee.steps.task import run_task

    inputs = {"train_reference": train_reference, "encode": encode}
    run_task(estimate_fisher.run, params, inputs, fisher, metrics, part)
