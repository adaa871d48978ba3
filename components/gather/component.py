"""Component `gather`: the parts of a fan-out as one artifact; see `unsee.steps.workflow.gather_parts`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gather(parts: dsl.Input[list[dsl.Artifact]], whole: dsl.Output[dsl.Artifact]):
    """Bring the parts of a fan-out together, so that tasks in loops and branches can be handed them.

    Kubeflow can hand what a loop made to a task outside of loops and branches only.

    Args:
        parts: An artifact from every part.
        whole: A folder with all of them.
    """
    from unsee.steps.workflow import gather_parts

    gather_parts(parts, whole)
