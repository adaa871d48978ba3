"""What tasks ask of the cluster: images by digest, accelerators, tolerations, queues."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from pipelines.compilation import built
from unsee.params import load_params

CPU = f"registry.example/unsee-python-cpu@sha256:{'1' * 64}"
GPU = f"registry.example/unsee-python-gpu@sha256:{'2' * 64}"
NETWORK = {
    "train-reference",
    "encode",
    "cache-baseline",
    "estimate-fisher",
    "make-queries",
    "unlearn",
    "score",
    "retrain",
    "verify",
}


def executors(**cluster: Any) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Container and Kubernetes settings of every component, compiled for a cluster."""
    params = load_params(None, {f"cluster.{key}": value for key, value in cluster.items()})
    pipeline = built("attribution-audit", params.cluster)
    spec, platform = (json_format.MessageToDict(part) for part in (pipeline.pipeline_spec, pipeline.platform_spec))
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    containers = spec["deploymentSpec"]["executors"]
    return {label.removeprefix("exec-"): (containers[label]["container"], settings[label]) for label in containers}


def test_gpu_tasks_get_the_profile_and_no_other() -> None:
    found = executors(
        image=CPU,
        gpu_image=GPU,
        gpu_count=2,
        gpu_resource="nvidia.com/gpu",
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        node_selector={"accelerator": "h100"},
        queue="audits",
    )
    for name, (container, settings) in found.items():
        if name in NETWORK:
            assert container["image"] == GPU, name
            accelerator = container["resources"]["accelerator"]
            assert (accelerator["resourceCount"], accelerator["resourceType"]) == ("2", "nvidia.com/gpu")
            assert settings["tolerations"] == [{"effect": "NoSchedule", "key": "nvidia.com/gpu", "operator": "Exists"}]
            assert settings["nodeSelector"] == {"labels": {"accelerator": "h100"}}
            assert settings["podMetadata"] == {"labels": {"kueue.x-k8s.io/queue-name": "audits"}}
        else:
            assert container["image"] == CPU, name
            assert "accelerator" not in container["resources"]
            assert not {"tolerations", "nodeSelector", "podMetadata"} & set(settings)
    assert set(found) > NETWORK


def test_without_accelerators_the_network_runs_in_the_ordinary_image() -> None:
    found = executors(image=CPU, gpu_image=GPU, gpu_count=0)
    assert {container["image"] for container, _ in found.values()} == {CPU}


def test_no_claim_no_volume_and_no_retry_where_there_is_to_be_none() -> None:
    found = executors(models_claim=None, retries=0)
    for _, settings in found.values():
        assert "pvcMount" not in settings
        assert {volume["volumeName"] for volume in settings["emptyDirMounts"]} == {"home", "scratch"}
