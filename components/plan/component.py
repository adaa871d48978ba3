"""Component `plan`: the first task; see `unsee.steps.planning`."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan(
    data_source: str,
    data_path: str,
    data_repo: str,
    data_rev: str,
    model_path: str,
    queries_prompts: list,
    queries_folder: str,
    queries_seed: int,
    weights_preset: str,
    compat: str,
    retrain_enabled: bool,
    report_title: str,
    run_shards: int,
    seed: int,
    overrides: dict,
    force_rerun: str,
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
        ("retrain", str),
        ("verify", str),
        ("report", str),
        ("shards", list),
        ("chunks", list),
        ("jobs", list),
    ],
):
    """Work out from what was filled in what every task is to do. Never cached: it looks at the world outside.

    Its inputs are the pipeline's own parameters, its outputs what each step is told, and the parts of the fan-outs.
    """
    given = dict(locals())
    from unsee.steps.workflow import plan_audit

    del given["overrides"], given["force_rerun"]
    return plan_audit(given, overrides, force_rerun)
