"""Runs the pipeline `attribution-audit` with one of Kubeflow's local runners, in a process of its own.

Kubeflow replaces `print` and keeps its settings for the whole process.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kfp import local

from pipelines.attribution_audit import attribution_audit_pipeline
from unsee.params import load_params


def main() -> None:
    """Run with the parameters in a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parameters", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("--image", help="run in containers of this image")
    parser.add_argument("--mount", nargs=2, action="append", default=[], metavar=("HERE", "THERE"))
    parser.add_argument("--env", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    asked = parser.parse_args()
    cluster = {"cluster.retries": 0}
    if asked.image:
        cluster["cluster.image"] = asked.image
        volumes = {here: {"bind": there, "mode": "rw"} for here, there in asked.mount}
        runner = local.DockerRunner(volumes=volumes, environment=dict(asked.env), network_mode="host")
    else:
        runner = local.SubprocessRunner(use_venv=False)
    # Kubeflow removes the workspace after every run.
    workspace = asked.root / "workspace"
    workspace.mkdir(parents=True)
    local.init(runner, pipeline_root=str(asked.root / "out"), workspace_root=str(workspace), raise_on_error=True)
    pipeline = attribution_audit_pipeline(load_params(None, cluster).cluster)
    pipeline(**json.loads(asked.parameters.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
