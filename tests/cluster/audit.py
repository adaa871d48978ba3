"""The audit that is run twice, on the cluster and on this machine: digits, a few steps, the proof by retraining."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path
from typing import Any

import yaml

from cluster.settings import Settings
from pipelines.compilation import compile_to
from small_audit import SMALL
from unsee.cli.pipeline_parameters import collect
from unsee.params import load_params
from unsee.platform.compiled import AUDIT, CompiledPipeline, read_compiled
from unsee.platform.tracking import Tracker
from unsee.report.comparison import read_report
from unsee.steps.runner import run_audit

PARAMS: dict[str, Any] = {
    **SMALL,
    # Scores of a hundredth of the baseline loss, far above the tolerance. A much longer step moves a network that has
    # hardly been trained to where rounding decides.
    "unlearn": {**SMALL["unlearn"], "loss_ratio": 1.01},
    "retrain": {"enabled": True, "removed": 8.0, "controls": 1, "timesteps": 4, "draws": 2},
    "run": {"device": "cpu", "batch_size": 64, "shards": 2},
}
"""Two queries, two shards, two retrainings: every fan-out has more than one part."""


def write_params(folder: Path) -> Path:
    """The params as a file."""
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(PARAMS), encoding="utf-8")
    return path


def compiled_for(settings: Settings, claim: str | None, folder: Path) -> CompiledPipeline:
    """The pipeline, small enough for any cluster.

    Args:
        claim: the volume with models that the tasks mount.
    """
    asked = {
        "image": settings.steps_image,
        "cpu": "500m",
        "memory": "3Gi",
        "retries": 1,
        "timeout_hours": settings.run_minutes / 60,
        "models_claim": claim,
    }
    cluster = load_params(None, {f"cluster.{key}": value for key, value in asked.items()}).cluster
    compile_to(folder, folder / "k8s-native", cluster)
    return read_compiled(AUDIT, folder)


def parameters(pipeline: CompiledPipeline, params: Path) -> dict[str, Any]:
    """What the run is started with: the params, and a text that no run had before."""
    return collect(pipeline, [f"force_rerun={uuid.uuid4().hex}"], [str(params)])


def local_report(params: Path, folder: Path) -> dict[str, Any]:
    """The report of the same audit, run here."""
    with tempfile.TemporaryDirectory() as scratch:
        given = load_params(params, {"run.cache": str(Path(scratch) / "cache"), "tracking.enabled": False})
        with Tracker.open(given, folder) as tracker:
            result = run_audit(given, folder, tracker=tracker)
    return read_report(result.report.with_name("report.json"))
