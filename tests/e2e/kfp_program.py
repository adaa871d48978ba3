"""Runs a pipeline with one of Kubeflow's local runners, in a process of its own.

Kubeflow replaces `print` and keeps its settings for the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from kfp import local

from pipelines.compilation import PIPELINES
from unsee.params import load_params


def main() -> None:
    """Run with the parameters in a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parameters", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("--pipeline", default="attribution-audit", choices=PIPELINES)
    parser.add_argument("--image", help="run in containers of this image")
    asked = parser.parse_args()
    cluster: dict[str, Any] = {"cluster.retries": 0, "cluster.models_claim": None}
    if asked.image:
        cluster["cluster.image"] = asked.image
        # The image's own user writes into folders that Kubeflow makes here.
        os.umask(0)
        runner: Any = local.DockerRunner(
            read_only=True,
            tmpfs={"/tmp": "", "/home/unsee": "mode=1777"},  # noqa: S108  (the container's own)
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network_mode="none",
            environment={"UNSEE_CACHE": str(asked.root / "out" / "cache"), "OMP_NUM_THREADS": "1"},
        )
    else:
        runner = local.SubprocessRunner(use_venv=False)
    # Kubeflow removes the workspace after every run.
    workspace = asked.root / "workspace"
    workspace.mkdir(parents=True)
    (asked.root / "out" / "cache").mkdir(parents=True)
    local.init(runner, pipeline_root=str(asked.root / "out"), workspace_root=str(workspace), raise_on_error=True)
    pipeline = PIPELINES[asked.pipeline](load_params(None, cluster).cluster)
    pipeline(**json.loads(asked.parameters.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
