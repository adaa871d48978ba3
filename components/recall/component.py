"""Component `recall`: the first task of a reproduction; see `unsee.steps.planning`."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def recall(
    report_uri: str, original: dsl.Output[dsl.Artifact], run_shards: int = 4, force_rerun: str = ""
) -> NamedTuple(
    "Planned",
    [
        ("version_data", str),
        ("train_reference", str),
        ("encode", str),
        ("cache_baseline", str),
        ("estimate_fisher", str),
        ("make_queries", str),
        ("unlearn", str),
        ("score", str),
        ("report", str),
        ("shards", list),
        ("chunks", list),
    ],
):
    """Read a report's params, and work out what every task is to do to come to the same report. Never cached.

    Args:
        report_uri: Where the report.json lies: a path on the mounted volume, or s3://bucket/key.
        original: The report, kept for the comparison.
        run_shards: Parts that the records are split into.
        force_rerun: Any text that no run had before makes every task run again.
    """
    from unsee.steps.workflow import plan_again

    return plan_again(report_uri, original, run_shards, force_rerun)
