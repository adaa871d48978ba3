"""The pipeline `reproduce-audit`: given a report, come to it again, and fail where it does not hold."""

from collections.abc import Callable
from typing import Any

from kfp import dsl

from components.compare.component import compare
from components.finish.component import finish
from components.recall.component import recall
from pipelines.attribution_audit import shipped
from pipelines.audit_tasks import audit_tasks, report_task
from pipelines.placement import placed
from unsee.params import ClusterParams
from unsee.report.comparison import DEFAULT_TOLERANCE

NAME = "reproduce-audit"


def audit_again_pipeline(cluster: ClusterParams) -> Callable[..., Any]:
    """Everything between plan and end, as a pipeline of its own."""

    @dsl.pipeline(name="audit-again")
    def audit_again(
        version_data: str,
        train_reference: str,
        encode: str,
        cache_baseline: str,
        estimate_fisher: str,
        make_queries: str,
        unlearn: str,
        score: str,
        report: str,
        shards: list,
        chunks: list,
        original: dsl.Input[dsl.Artifact],
        tolerance: float,
    ):
        planned = locals()
        again = report_task(planned, cluster, audit_tasks(planned, cluster))
        verdict = compare(original=original, report=again.outputs["report"], tolerance=tolerance)
        placed(verdict, cluster, cached=False)

    return audit_again


def reproduce_audit_pipeline(cluster: ClusterParams) -> Callable[..., Any]:
    """The pipeline for a cluster that is as the params say."""
    audit_again = audit_again_pipeline(cluster)

    @dsl.pipeline(name=NAME, description="Does an audit's report hold? Run it again and compare score for score.")
    def reproduce_audit(
        report_uri: str,
        tolerance: float = DEFAULT_TOLERANCE,
        run_shards: int = shipped("run_shards"),
        overrides: dict = {},  # noqa: B006
        force_rerun: str = "",
        notify_url: str = "",
    ):
        """Run the audit that a report tells of again, and compare.

        Args:
            report_uri: The report.json, on the mounted volume or at s3://bucket/key.
            tolerance: How far a score may be off, as a share of the mean baseline loss.
            run_shards: Tasks that the records are split over, at most 50.
            overrides: Settings of the tracking, dotted: {"tracking.experiment": "reproductions"}.
            force_rerun: Any text that no run had before makes every task run again.
            notify_url: Address that the outcome is posted to, as JSON.
        """
        end = finish(overrides=overrides, notify_url=notify_url)
        placed(end, cluster, cached=False)
        with dsl.ExitHandler(end, name="reproduction"):
            first = recall(report_uri=report_uri, run_shards=run_shards, force_rerun=force_rerun)
            placed(first, cluster, cached=False)
            audit_again(**first.outputs, tolerance=tolerance)

    return reproduce_audit
