"""Component `compare`: does a report hold? See `unsee.report.comparison`."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def compare(
    original: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    tolerance: float = 1e-5,
):
    """Compare a report with the original, and fail where they differ by more than the tolerance.

    Args:
        original: The report.json to be reproduced.
        report: The new report.
        summary: What differs, for people.
        metrics: The largest difference, and how many there are.
        tolerance: Of a score, as a share of the mean baseline loss.
    """
    from unsee.steps.workflow import compare_reports

    compare_reports(original, report, summary, metrics, tolerance)
