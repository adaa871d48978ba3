"""Component `train_reference`; what it does is in `unsee.steps.train_reference`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_reference(
    params: str,
    version_data: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Train the small reference model, or note which model of the user's is audited.

    Where `model_path` names a pipeline, nothing is trained: its digest is taken. Checkpoints outlive the task where
    UNSEE_CHECKPOINTS names a folder.

    Args:
        params: What the planner hands to this step: its params, as JSON.
        version_data: The TrainingSet.
        model: The result, an artifact folder.
        metrics: The result's scalars.
    """
    from unsee.steps import train_reference
    from unsee.steps.task import run_task

    inputs = {"version_data": version_data}
    run_task(train_reference.run, params, inputs, model, metrics)
