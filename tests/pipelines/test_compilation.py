"""The compiled pipelines are committed, and are what the code says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import compilation
from pipelines.compilation import COMPILED, MANIFESTS, PIPELINES, ROOT
from unsee.params import load_params
from unsee.steps.planning import PIPELINE_KEYS, WORKFLOW_TASKS, pipeline_name
from unsee.steps.registry import STEPS

CLUSTER = load_params().cluster
OLDEST, NEWEST = "2.17.0", "2.17.3"
OWN_PARAMETERS = {"overrides", "force_rerun", "notify_url"}
NOT_CACHED = {"plan", "recall", "compare", "finish"}


def compiled(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The committed specification and its part for Kubernetes."""
    spec, platform = yaml.safe_load_all((ROOT / COMPILED / f"{name}.yaml").read_text(encoding="utf-8"))
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def tasks(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Every task of every graph in a specification."""
    graphs = [spec["root"], *(c for c in spec["components"].values() if "dag" in c)]
    return [task for graph in graphs for task in graph["dag"]["tasks"].values()]


def shims(spec: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every task that runs a container, with the name of the function it runs."""
    found = []
    for task in tasks(spec):
        component = spec["components"][task["componentRef"]["name"]]
        if "executorLabel" in component:
            executor = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
            arguments = executor["args"]
            found.append((arguments[arguments.index("--function_to_execute") + 1], task))
    return found


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fresh")
    compilation.compile_to(root / COMPILED, root / MANIFESTS, CLUSTER)
    return root


def test_what_is_committed_is_what_the_pipelines_compile_to(fresh: Path) -> None:
    assert compilation.stale(ROOT, fresh) == []


def test_drift_is_noticed(fresh: Path, tmp_path: Path) -> None:
    shutil.copytree(fresh, tmp_path, dirs_exist_ok=True)
    assert compilation.stale(tmp_path, fresh) == []
    path = tmp_path / COMPILED / "attribution-audit.yaml"
    path.write_bytes(path.read_bytes().replace(b"maxRetryCount: 2", b"maxRetryCount: 3", 1))
    (tmp_path / MANIFESTS / "reproduce-audit.yaml").unlink()
    assert compilation.stale(tmp_path, fresh) == [
        COMPILED / "attribution-audit.yaml",
        MANIFESTS / "reproduce-audit.yaml",
    ]


def test_tasks_are_the_steps() -> None:
    spec, _ = compiled("attribution-audit")
    names = {name for name, _ in shims(spec)}
    assert names - set(WORKFLOW_TASKS) == set(STEPS)
    assert set(WORKFLOW_TASKS) < names
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert list(stages) == list(STEPS)
    again, _ = compiled("reproduce-audit")
    assert {name for name, _ in shims(again)} - set(WORKFLOW_TASKS) - {"recall", "compare"} == set(STEPS) - {
        "retrain",
        "verify",
    }


def test_parameters_are_keys_of_the_params_with_their_defaults_and_choices() -> None:
    spec, _ = compiled("attribution-audit")
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {*map(pipeline_name, PIPELINE_KEYS), *OWN_PARAMETERS}
    values = load_params().model_dump(mode="json")
    for key in PIPELINE_KEYS:
        value: Any = values
        for part in key.split("."):
            value = value[part]
        assert parameters[pipeline_name(key)]["defaultValue"] == ("" if value is None else value)
    assert all(parameter["description"].strip() for parameter in parameters.values())
    literals = {name: parameter["literals"] for name, parameter in parameters.items() if "literals" in parameter}
    assert literals == {name: list(choices) for name, choices in compilation.choices_by_parameter().items()}
    assert literals["compat"] == ["unsee", "official"]
    assert set(literals) == {"data_source", "weights_preset", "compat"}


@pytest.mark.parametrize("name", PIPELINES)
def test_every_task_retries_with_backoff_and_only_what_may_be_is_cached(name: str) -> None:
    spec, platform = compiled(name)
    for function, task in shims(spec):
        policy = task["retryPolicy"]
        assert policy["maxRetryCount"] == CLUSTER.retries
        assert policy["backoffFactor"] > 1
        assert task["cachingOptions"].get("enableCache", False) is (function not in NOT_CACHED), function
    labels = {c["executorLabel"] for c in spec["components"].values() if "executorLabel" in c}
    assert set(platform) == labels
    for label in labels:
        settings = platform[label]
        assert int(settings["activeDeadlineSeconds"]) == CLUSTER.timeout_hours * 3600
        assert settings["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        assert [claim["mountPath"] for claim in settings["pvcMount"]] == ["/models"]
        container = spec["deploymentSpec"]["executors"][label]["container"]
        assert container["resources"]["resourceMemoryLimit"] == CLUSTER.memory


@pytest.mark.parametrize("name", PIPELINES)
def test_secrets_are_named_and_never_written(name: str) -> None:
    text = (ROOT / COMPILED / f"{name}.yaml").read_text(encoding="utf-8")
    _, platform = compiled(name)
    secrets = {(s["secretName"], s["optional"]) for settings in platform.values() for s in settings["secretAsEnv"]}
    assert secrets == {("unsee-object-store", True)}
    assert not re.search(r"(?i)(password|token|secret_?key)\s*[:=]\s*\S+[a-z0-9]{8}", text.replace("secretKey:", ""))
    assert "AWS_SECRET_ACCESS_KEY" in text


def test_the_audit_runs_below_an_exit_handler_and_the_first_task_is_the_plan() -> None:
    spec, _ = compiled("attribution-audit")
    root = spec["root"]["dag"]["tasks"]
    end = root["finish"]
    assert end["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    (body,) = end["dependentTasks"]
    inner = spec["components"][root[body]["componentRef"]["name"]]["dag"]["tasks"]
    assert set(inner) == {"plan", "audit"}
    assert inner["audit"]["dependentTasks"] == ["plan"]


@pytest.mark.slow
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_supported_kfp_compiles_the_same(version: str, tmp_path: Path) -> None:
    packages = [f"{name}=={version}" for name in ("kfp", "kfp-pipeline-spec", "kfp-kubernetes")]
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), *packages]
    subprocess.run(command, check=True)
    program = (
        "import sys, pathlib; from pipelines import compilation as c; from unsee.params import load_params; "
        "import kfp; assert kfp.__version__ == sys.argv[2]; root = pathlib.Path(sys.argv[1]); "
        "c.compile_to(root / c.COMPILED, root / c.MANIFESTS, load_params().cluster)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    subprocess.run([sys.executable, "-c", program, str(tmp_path), version], check=True, cwd=tmp_path, env=environment)
    for name in PIPELINES:
        for folder in (COMPILED, MANIFESTS):
            own, other = (
                re.sub(r"sdkVersion: kfp-\S+", "", (root / folder / f"{name}.yaml").read_text(encoding="utf-8"))
                for root in (ROOT, tmp_path)
            )
            assert own == other
