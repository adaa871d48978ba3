"""`dvc repro` runs the whole audit, then only asks the steps that read files, then runs from where a param matters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from small_audit import EVERY_STEP, SMALL
from unsee.params import load_params

ROOT = Path(__file__).parent.parent.parent


def flattened(values: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, inner in values.items() for key, value in inner.items()}


@pytest.mark.slow
def test_dvc_repro(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    params = load_params(None, flattened(SMALL)).model_dump(mode="json")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    bin_folder = Path(sys.executable).parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment.update(
        PATH=f"{bin_folder}{os.pathsep}{environment['PATH']}",
        UNSEE_CACHE=str(tmp_path / "cache"),
        OMP_NUM_THREADS="1",
        HF_HUB_OFFLINE="1",
        DVC_NO_ANALYTICS="1",
    )

    def dvc(*arguments: str) -> str:
        command = [str(bin_folder / "dvc"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    def ran(output: str) -> list[str]:
        return [name for name in EVERY_STEP if f"Running stage '{name}'" in output]

    dvc("init", "--no-scm", "--quiet")
    assert ran(dvc("repro")) == EVERY_STEP
    assert (tmp_path / "audit" / "report" / "report.html").is_file()
    asked = ["version_data", "train_reference", "make_queries"]
    assert ran(dvc("repro")) == asked
    params["queries"]["prompts"] = ["a handwritten digit nine"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert ran(dvc("repro")) == asked[:2] + EVERY_STEP[EVERY_STEP.index("make_queries") :]
