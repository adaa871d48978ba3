"""Component `cache_baseline`; what it does is in `unsee.steps.cache_baseline`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def cache_baseline(
    params: str,
    train_reference: dsl.Input[dsl.Model],
    encode: dsl.Input[dsl.Dataset],
    losses: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    part: str = "",
):
    """Measure every record's losses at the audited weights, or find them in the cache.

    The cache is addressed by content and shared by runs, pipelines and namespaces: no loss is computed twice.

    Args:
        params: What the planner hands to this step: its params, as JSON.
        train_reference: The audited model.
        encode: The EncodedSet.
        losses: The result, an artifact folder.
        metrics: The result's scalars.
        part: Which part of the work, `[index, number of parts]`; empty: all of it.
    """
    from unsee.steps import cache_baseline
    from unsee.steps.task import run_task

    inputs = {"train_reference": train_reference, "encode": encode}
    run_task(cache_baseline.run, params, inputs, losses, metrics, part)
