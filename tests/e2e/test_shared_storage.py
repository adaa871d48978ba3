"""A whole audit against real servers: its cache in SeaweedFS, its record in MLflow, whose files are there too."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from mlflow import MlflowClient

from servers import S3Server, mlflow_server, seaweedfs
from small_audit import SMALL
from unsee import artifacts
from unsee.params import load_params
from unsee.platform.tracking import Tracker
from unsee.steps.registry import STEPS
from unsee.steps.runner import run_step

SHARED = ("encode", "cache_baseline", "estimate_fisher", "unlearn", "score")
"""Steps whose work is in the cache."""
KINDS = (
    "fisher/<sha256>/sums-<sha256>.safetensors",
    "latents/<sha256>/<sha256>-<sha256>.safetensors",
    "latents/<sha256>/index-<sha256>.parquet",
    "losses/<sha256>/part-<sha256>.parquet",
    "texts/<sha256>/<sha256>-<sha256>.safetensors",
    "texts/<sha256>/index-<sha256>.parquet",
    "unlearned/<sha256>/step-<sha256>.safetensors",
)
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A store that every audit of this test shares."""
    with seaweedfs(tmp_path / "seaweedfs") as server:
        for name, value in {**server.environment, "UNSEE_CACHE": f"s3://{server.bucket}/cache"}.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Samples that went through the denoiser, the picture encoder and the text encoder, by network."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import BertModel

    counted: Counter[str] = Counter()

    def count(network: type, method: str, size: Any) -> None:
        original = getattr(network, method)

        def counting(self: Any, *arguments: Any, **named: Any) -> Any:
            counted[network.__name__] += size(*arguments, **named)
            return original(self, *arguments, **named)

        monkeypatch.setattr(network, method, counting)

    count(UNet2DConditionModel, "forward", lambda sample, *_, **__: len(sample))
    count(AutoencoderKL, "encode", lambda pictures, *_, **__: len(pictures))
    count(BertModel, "forward", lambda input_ids, *_, **__: len(input_ids))
    return counted


def audit(work: Path, evaluations: Counter[str], **changed: Any) -> dict[str, Counter[str]]:
    """Every step in the folder `work`; the evaluations that each one made."""
    flat = {f"{section}.{key}": value for section, values in SMALL.items() for key, value in values.items()}
    params = load_params(None, {**flat, **{key.replace("__", "."): value for key, value in changed.items()}})
    made = {}
    with Tracker.open(params, work) as tracker:
        for name in STEPS:
            evaluations.clear()
            run_step(name, params, work, tracker=tracker)
            made[name] = Counter(evaluations)
    assert tracker.problems == []
    return made


def digest(work: Path, name: str) -> str:
    spec = STEPS[name]
    return artifacts.read_header(work / name, spec.kind, spec.schema_version).digest


def stored(server: S3Server, prefix: str) -> list[str]:
    client = Minio(server.endpoint, server.key, server.secret, secure=False, region="us-east-1")
    return [str(item.object_name) for item in client.list_objects(server.bucket, prefix=prefix, recursive=True)]


@pytest.mark.slow
@pytest.mark.mlflow
def test_a_second_audit_is_served_from_the_store(
    s3: S3Server, tmp_path: Path, evaluations: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    with mlflow_server(
        tmp_path / "mlflow", artifacts=f"s3://{s3.bucket}/mlflow", environment=s3.environment
    ) as tracking:
        first = audit(tmp_path / "first", evaluations, tracking__uri=tracking, tracking__experiment="team-a")
        second = audit(tmp_path / "second", evaluations, tracking__uri=tracking, tracking__experiment="team-b")
        client = MlflowClient(tracking_uri=tracking)
        (experiment,) = client.search_experiments(filter_string="name = 'team-a'")
        parents = [
            run for run in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" not in run.data.tags
        ]
        (parent,) = parents
        copy = Path(client.download_artifacts(parent.info.run_id, "report.html", str(tmp_path)))

    untracked = {"tracking__enabled": False, "model__path": str(tmp_path / "first" / "train_reference" / "pipeline")}
    asked = audit(tmp_path / "third", evaluations, queries__prompts=["a handwritten digit nine"], **untracked)
    assert all(first[name].total() > 0 for name in SHARED)
    assert {name: second[name].total() for name in SHARED} == dict.fromkeys(SHARED, 0)
    assert digest(tmp_path / "second", "score") == digest(tmp_path / "first", "score")
    assert {name: asked[name].total() > 0 for name in SHARED} == {
        "encode": False,
        "cache_baseline": False,
        "estimate_fisher": False,
        "unlearn": True,
        "score": True,
    }
    kinds = {re.sub(r"[0-9a-f]{64}", "<sha256>", name.removeprefix("cache/")) for name in stored(s3, "cache/")}
    assert kinds == set(KINDS)
    documented = (ROOT / "docs" / "reference" / "store-keys.md").read_text()
    for kind in kinds:
        place, name = re.fullmatch(r"(\w+)/<sha256>/(.*)", kind).groups()
        assert f"`{place}/<digest>/{name.replace('<sha256>-', '<digest of the ids>-')}`" in documented
    assert copy.read_bytes() == (tmp_path / "first" / "report" / "report.html").read_bytes()
    assert any(name.endswith("/report.html") for name in stored(s3, "mlflow/")), "the server keeps files in the store"

    monkeypatch.setenv("UNSEE_CACHE", str(tmp_path / "folder"))
    alone = audit(tmp_path / "alone", evaluations, **untracked)
    assert {name: alone[name] for name in SHARED} == {name: first[name] for name in SHARED}
    assert digest(tmp_path / "alone", "score") == digest(tmp_path / "first", "score")
    in_folder = {path.relative_to(tmp_path / "folder").as_posix() for path in (tmp_path / "folder").rglob("*-*.*")}
    assert in_folder <= {name.removeprefix("cache/") for name in stored(s3, "cache/")}, "keys are the same everywhere"
