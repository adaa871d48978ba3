"""Component `version_data`; what it does is in `unsee.steps.version_data`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def version_data(
    params: str,
    training_set: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """Read the training set: a recipe, a folder, or a folder at a revision of a DVC repository.

    A record's id comes from its content; exact duplicates are flagged, unreadable files quarantined with their reason.

    Args:
        params: What the planner hands to this step: its params, as JSON.
        training_set: The result, an artifact folder.
        metrics: The result's scalars.
    """
    from unsee.steps import version_data
    from unsee.steps.task import run_task

    inputs = {}
    run_task(version_data.run, params, inputs, training_set, metrics)
