"""Component `encode`; what it does is in `unsee.steps.encode`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def encode(
    params: str,
    version_data: dsl.Input[dsl.Dataset],
    train_reference: dsl.Input[dsl.Model],
    encoded_set: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """Encode pictures and captions as the audited model sees them.

    Latents are the mode of the encoder's distribution, never a sample of it.

    Args:
        params: What the planner hands to this step: its params, as JSON.
        version_data: The TrainingSet.
        train_reference: The audited model.
        encoded_set: The result, an artifact folder.
        metrics: The result's scalars.
    """
    from unsee.steps import encode
    from unsee.steps.task import run_task

    inputs = {"version_data": version_data, "train_reference": train_reference}
    run_task(encode.run, params, inputs, encoded_set, metrics)
