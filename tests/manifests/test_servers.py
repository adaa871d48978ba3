"""The servers of the manifests start as they are written there, under a read-only root, and work together."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manifests import sealed
from manifests.objects import Object, of_kind

Rendered = Callable[[str], list[Object]]
pytestmark = [pytest.mark.slow, pytest.mark.mlflow]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, rendered: Rendered) -> dict[str, Any]:
    missing = [name for name in ("unshare", "chroot") if shutil.which(name) is None]
    missing += [] if list(Path("/usr/lib/postgresql").glob("*/bin/initdb")) else ["a Postgres server (apt: postgresql)"]
    missing += [] if os.geteuid() == 0 else ["root, to make namespaces"]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    work = tmp_path_factory.mktemp("sealed")
    (work / "objects.json").write_text(json.dumps(rendered("kind")))
    path = os.pathsep.join([str(Path(sealed.__file__).parents[1]), str(Path(sealed.__file__).parents[2] / "src")])
    command = [*sealed.ENTER, sys.executable, sealed.__file__, str(work / "objects.json"), str(work)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((work / "report.json").read_text())
    assert not found["not_ready"], found["logs"]
    return found


def test_the_job_waits_for_the_store_and_makes_the_bucket_once(report: dict[str, Any]) -> None:
    assert report["job"] == [[0, "bucket unsee: made\n"], [0, "bucket unsee: was there\n"]]


def test_the_folder_of_checkpoints_is_open_to_the_group_of_the_steps(report: dict[str, Any]) -> None:
    outcome, (mode, _, _, _, _, group) = report["models"]
    assert outcome == [0, ""]
    assert (stat.S_IMODE(mode), group) == (0o2770, 10001)


def test_a_run_is_kept_in_postgres_and_its_file_in_the_store(report: dict[str, Any]) -> None:
    tracked = report["tracked"]
    assert tracked["metric"] == {"loss": 0.5}
    assert tracked["read_back"] == "written by a step"
    assert tracked["artifact_uri"].startswith("mlflow-artifacts:/")
    assert len(tracked["in_the_store"]) == 1


def test_mlflow_answers_to_its_own_names_only(report: dict[str, Any]) -> None:
    refused = {name for name, answer in report["hosts"].items() if answer == 403}
    assert refused == {"evil.example", "10.244.0.7:5000"}
    assert all(answer == 200 for name, answer in report["hosts"].items() if name not in refused)


def test_nothing_listens_to_others_but_the_declared_ports(report: dict[str, Any]) -> None:
    closed_by_policy = {"18333"}
    assert set(report["open"]) - closed_by_policy == {"5000", "5432", "8333"}


def test_no_password_shows_in_logs_or_arguments(
    report: dict[str, Any], rendered: Callable[[str], list[Object]]
) -> None:
    secrets = of_kind(rendered("kind"), "Secret")
    assert {"secretkey", "password"} <= {key for secret in secrets for key in secret["data"]}
    shown = "\n".join([*report["logs"].values(), *report["commands"]])
    assert "postgresql+psycopg2://unsee-postgres:5432/mlflow" in shown
    assert "change-me" not in shown
    assert "Read-only file system" not in shown
