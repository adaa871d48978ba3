"""Component `report`; what it does is in `unsee.steps.report`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(
    params: str,
    version_data: dsl.Input[dsl.Dataset],
    train_reference: dsl.Input[dsl.Model],
    encode: dsl.Input[dsl.Dataset],
    cache_baseline: dsl.Input[dsl.Artifact],
    estimate_fisher: dsl.Input[dsl.Artifact],
    make_queries: dsl.Input[dsl.Dataset],
    unlearn: dsl.Input[dsl.Artifact],
    score: dsl.Input[dsl.Artifact],
    report: dsl.Output[dsl.Artifact],
    html: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    verify: dsl.Input[dsl.Artifact] = None,
):
    """Write the page that people read and the summary that machines read.

    Args:
        params: What the planner hands to this step: its params, as JSON.
        version_data: The TrainingSet.
        train_reference: The audited model.
        encode: The EncodedSet.
        cache_baseline: The LossTable, in parts.
        estimate_fisher: The Fisher information, in parts.
        make_queries: The QuerySet.
        unlearn: The UnlearnedWeights, in parts.
        score: The Scores, in parts.
        report: The result, an artifact folder.
        html: The page.
        summary: The result in a few lines.
        metrics: Scalars to compare audits by.
        verify: The Counterfactual: the proof, where there is one.
    """
    from unsee.steps import report as step
    from unsee.steps.task import run_task
    from unsee.steps.workflow import show_report

    inputs = {
        "version_data": version_data,
        "train_reference": train_reference,
        "encode": encode,
        "cache_baseline": cache_baseline,
        "estimate_fisher": estimate_fisher,
        "make_queries": make_queries,
        "unlearn": unlearn,
        "score": score,
        "verify": verify,
    }
    run_task(step.run, params, inputs, report, metrics)
    show_report(report, html, summary, metrics)
