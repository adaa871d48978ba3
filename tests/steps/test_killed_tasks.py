"""A task that was killed goes on from its finished units when it is run again elsewhere, with the same cache."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import RESOLUTION
from unsee import artifacts
from unsee.steps.planning import PIPELINE_KEYS, Plan, pipeline_name, plan, shipped
from unsee.steps.registry import STEPS

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "killed_step.py"
PART = "[0, 8]"


class Workplace:
    """Runs tasks one by one, each in a process of its own."""

    def __init__(self, root: Path, planned: Plan) -> None:
        self.root = root
        self.planned = planned

    def run(
        self, step: str, *, attempt: str = "first", cache: str = "cache", part: str = "", limit: int | None = None
    ) -> int:
        """Evaluations that a task made; the artifact of its first attempt is what later steps read."""
        folder = self.root / attempt
        folder.mkdir(exist_ok=True)
        order = {
            "step": step,
            "params": self.planned.steps[step],
            "inputs": {name: str(self.root / "first" / name) for name in STEPS[step].inputs},
            "out": str(folder / step),
            "metrics": str(folder / f"{step}.metrics"),
            "part": part,
            "counted": str(folder / f"{step}.counted"),
            "limit": limit,
        }
        path = folder / f"{step}.order"
        path.write_text(json.dumps(order))
        environment = {**os.environ, "UNSEE_CACHE": str(self.root / cache), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(ROOT / "tests")
        done = subprocess.run(
            [sys.executable, str(PROGRAM), str(path)], env=environment, capture_output=True, text=True, check=False
        )
        wanted = 0 if limit is None else -signal.SIGKILL
        assert done.returncode == wanted, done.stderr[-3000:]
        counted = Path(order["counted"])  # type: ignore[arg-type]
        return int(counted.read_text()) if counted.exists() else 0


@pytest.fixture
def workplace(pipeline_folder: Path, tmp_path: Path) -> Workplace:
    values = {pipeline_name(key): shipped(pipeline_name(key)) for key in PIPELINE_KEYS}
    overrides = {
        "data.resolution": RESOLUTION,
        "loss.timesteps": 2,
        "fisher.draws": 1,
        "queries.steps": 2,
        "unlearn.samples": 16,
        "unlearn.probe_samples": 16,
        "unlearn.loss_ratio": 1.001,
        "run.device": "cpu",
        "run.batch_size": 16,
    }
    own = {"data_source": "digits", "model_path": str(pipeline_folder), "queries_prompts": ["one", "two", "three"]}
    return Workplace(tmp_path, plan({**values, **own}, overrides))


@pytest.mark.slow
def test_killed_tasks_go_on_and_finished_ones_are_found(workplace: Workplace) -> None:
    for step in ("version_data", "train_reference", "encode", "make_queries"):
        workplace.run(step)
    for step, part in (("cache_baseline", PART), ("estimate_fisher", PART), ("unlearn", ""), ("score", PART)):
        if step == "unlearn":
            workplace.run("estimate_fisher")
        if step == "score":
            workplace.run("cache_baseline")
        whole = workplace.run(step, attempt=f"whole-{step}", cache=f"cache-{step}", part=part)
        cache = f"other-cache-{step}"
        before = workplace.run(step, attempt="killed", cache=cache, part=part, limit=whole * 5 // 8)
        killed = workplace.root / "killed" / step
        assert not killed.exists()
        after = workplace.run(step, attempt="again", cache=cache, part=part)
        # It was killed while at its third unit of four (of three queries, at its second).
        assert 0 < after < whole, step
        assert before + after < whole * 1.6, step
        spec = STEPS[step]
        one, other = (
            artifacts.read_header(workplace.root / folder / step, spec.kind, spec.schema_version).digest
            for folder in (f"whole-{step}", "again")
        )
        assert one == other
        assert workplace.run(step, attempt="later", cache=cache, part=part) == 0
        if step == "unlearn":
            workplace.run(step)
