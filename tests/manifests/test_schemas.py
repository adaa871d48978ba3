"""Every object of every rendering is what Kubernetes 1.33 to 1.36 and the custom resources' definitions accept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from manifests.objects import Object, of_kind
from manifests.rendering import RENDERINGS
from manifests.schemas import VERSIONS, custom_schema, violations

Rendered = Callable[[str], list[Object]]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_of_every_rendering_fits_its_schema(rendered: Rendered, version: str) -> None:
    # Renderings have most objects in common: each is checked once, whatever its namespace.
    distinct: dict[str, Object] = {}
    for name in RENDERINGS:
        objects = rendered(name)
        assert len(objects) > 20
        for thing in objects:
            distinct[re.sub(r'"namespace": "[a-z-]+"', '"namespace": ""', json.dumps(thing))] = thing
    assert [problem for thing in distinct.values() for problem in violations(thing, version)] == []


def _typo(thing: Object) -> None:
    thing["spec"]["replica"] = 2


def _text_for_number(thing: Object) -> None:
    thing["spec"]["replicas"] = "two"


def _removed_in_trainer_2_3(thing: Object) -> None:
    thing["spec"]["mlPolicy"]["torch"] = {"numProcPerNode": "auto"}


def _typo_deep_in_a_pod(thing: Object) -> None:
    thing["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["tolerance"] = []


def _namespace_where_none_belongs(thing: Object) -> None:
    thing["metadata"]["namespace"] = "unsee"


def _quota_without_a_number(thing: Object) -> None:
    thing["spec"]["resourceGroups"][0]["flavors"][0]["resources"][0]["nominalQuota"] = "plenty"


@pytest.mark.parametrize(
    ("name", "kind", "spoil"),
    [
        ("dev", "Deployment", _typo),
        ("dev", "Deployment", _text_for_number),
        ("dev", "TrainingRuntime", _removed_in_trainer_2_3),
        ("dev", "TrainingRuntime", _typo_deep_in_a_pod),
        ("prod", "ClusterQueue", _namespace_where_none_belongs),
        ("prod", "ClusterQueue", _quota_without_a_number),
    ],
)
def test_a_spoilt_object_is_found(rendered: Rendered, name: str, kind: str, spoil: Callable[[Object], None]) -> None:
    (thing,) = of_kind(rendered(name), kind)
    assert violations(thing, VERSIONS[0]) == []
    spoil(thing)
    assert violations(thing, VERSIONS[0]) != []


def test_a_custom_resource_without_a_schema_does_not_pass_unchecked() -> None:
    with pytest.raises(LookupError, match=r"kubeflow\.org/v1 PyTorchJob"):
        custom_schema("kubeflow.org/v1", "PyTorchJob")


def test_pipeline_objects_have_a_schema() -> None:
    pipeline: dict[str, Any] = {
        "apiVersion": "pipelines.kubeflow.org/v2beta1",
        "kind": "PipelineVersion",
        "metadata": {"name": "audit-1"},
        "spec": {"pipelineName": "audit", "pipelineSpec": {}},
    }
    assert any("'root' is a required property" in problem for problem in violations(pipeline, VERSIONS[0]))
    pipeline["spec"]["pipelineSpec"] = dict.fromkeys(
        ("components", "deploymentSpec", "pipelineInfo", "root", "schemaVersion", "sdkVersion"), ""
    )
    assert violations(pipeline, VERSIONS[0]) == []
