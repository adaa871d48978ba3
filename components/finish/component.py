"""Component `finish`: the exit handler; see `unsee.steps.workflow.finish_audit`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def finish(status: dsl.PipelineTaskFinalStatus, overrides: dict, notify_url: str = ""):
    """End the run in MLflow and tell the outcome, also when a task has failed. Never cached.

    Args:
        status: What became of the tasks.
        overrides: The pipeline's, for the settings of the tracking.
        notify_url: Address that the outcome is posted to, as JSON; empty: none.
    """
    from unsee.steps.workflow import finish_audit

    finish_audit(
        state=status.state,
        run=status.pipeline_job_resource_name,
        message=status.error_message or "",
        overrides=overrides,
        notify_url=notify_url,
    )
