"""DVC keeps the reference project's artifacts, and data at a revision, in the same S3."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image

from servers import S3Server, seaweedfs
from small_audit import SMALL
from unsee import artifacts
from unsee.params import load_params
from unsee.records.training_set import TrainingSet
from unsee.steps.registry import STEPS

ROOT = Path(__file__).parent.parent.parent
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("dvc_s3") is None, reason="dvc-s3 is not installed"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]

Run = Callable[..., str]


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with seaweedfs(tmp_path / "seaweedfs") as server:
        yield server


@pytest.fixture
def run(s3: S3Server, tmp_path: Path) -> Run:
    """Runs a program of the environment in a folder, with what it takes to reach the store."""
    programs = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))}
    environment.update(
        s3.environment,
        PATH=f"{programs}{os.pathsep}{environment['PATH']}",
        HOME=str(tmp_path / "home"),
        UNSEE_CACHE=str(tmp_path / "cache"),
        OMP_NUM_THREADS="1",
        HF_HUB_OFFLINE="1",
        DVC_NO_ANALYTICS="1",
        **{f"GIT_{who}_{what}": "unsee@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    )
    (tmp_path / "home").mkdir()

    def call(folder: Path, *command: str) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    return call


def start(run: Run, folder: Path, server: S3Server) -> None:
    """A git repository with DVC, whose remote is the store; no key is written into it."""
    folder.mkdir()
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    run(folder, "dvc", "init", "--quiet")
    run(folder, "dvc", "remote", "add", "--default", "store", f"s3://{server.bucket}/dvc")
    run(folder, "dvc", "remote", "modify", "store", "endpointurl", server.url)
    assert server.secret not in (folder / ".dvc" / "config").read_text()


def commit(run: Run, folder: Path) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "audit")


@pytest.mark.slow
def test_the_reference_project_is_pushed_and_pulled(run: Run, s3: S3Server, tmp_path: Path) -> None:
    project, clone = tmp_path / "project", tmp_path / "clone"
    start(run, project, s3)
    (project / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    flat = {f"{section}.{key}": value for section, values in SMALL.items() for key, value in values.items()}
    (project / "params.yaml").write_text(yaml.safe_dump(load_params(None, flat).model_dump(mode="json")))
    steps = ("version_data", "train_reference", "encode")
    run(project, "dvc", "repro", *steps)
    commit(run, project)
    assert "pushed" in run(project, "dvc", "push")
    assert json.loads(run(project, "dvc", "data", "status", "--not-in-remote", "--json").splitlines()[0]) == {}

    run(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    run(clone, "dvc", "pull", *steps)
    for name in steps:
        spec = STEPS[name]
        ours, theirs = (
            artifacts.read_header(folder / "audit" / name, spec.kind, spec.schema_version)
            for folder in (project, clone)
        )
        assert ours.digest == theirs.digest


@pytest.mark.slow
def test_data_at_a_revision_is_read_from_the_store(run: Run, s3: S3Server, tmp_path: Path) -> None:
    project = tmp_path / "project"
    start(run, project, s3)
    images = project / "images"
    images.mkdir()
    for number in range(5):
        Image.new("RGB", (16, 16), (number * 40, 90, 90)).save(images / f"{number}.png")
    lines = [json.dumps({"file_name": f"{number}.png", "text": f"colour {number}"}) for number in range(5)]
    (images / "metadata.jsonl").write_text("\n".join(lines))
    run(project, "dvc", "add", "images")
    commit(run, project)
    run(project, "dvc", "push")
    shutil.rmtree(images)
    shutil.rmtree(project / ".dvc" / "cache")

    work = tmp_path / "work"
    work.mkdir()
    settings = {"data.source": "folder", "data.path": "images", "data.repo": str(project), "data.rev": "main"}
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run(work, "unsee", "step", "version_data", "--set", "data.resolution=16", *options)
    assert len(TrainingSet.load(work / "audit" / "version_data")) == 5
