"""Whatever one object names exists; each kind of reference can dangle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from manifests.objects import Object
from manifests.references import SECRETS, dangling
from manifests.rendering import MANIFESTS, RENDERINGS

Rendered = Callable[[str], list[Object]]


@pytest.mark.parametrize("name", RENDERINGS)
def test_nothing_dangles(rendered: Rendered, name: str) -> None:
    assert dangling(rendered(name)) == []


def test_the_supplied_secrets_are_the_documented_ones() -> None:
    readme = (MANIFESTS / "README.md").read_text()
    examples = {path.name.removesuffix(".env.example"): path for path in Path(MANIFESTS).rglob("*.env.example")}
    assert {f"unsee-{name}" for name in examples} == set(SECRETS)
    for secret, keys in SECRETS.items():
        lines = examples[secret.removeprefix("unsee-")].read_text().splitlines()
        assert {line.split("=")[0] for line in lines if not line.startswith("#")} == keys
        assert f"create secret generic {secret}" in readme


# In the text of the rendering: what is renamed, and what must be said about it.
RENAMED = [
    ('"serviceAccountName": "unsee-mlflow"', '"serviceAccountName": "unsee-gone"', "no ServiceAccount unsee-gone"),
    ('"claimName": "unsee-models"', '"claimName": "models"', "no PersistentVolumeClaim models"),
    ('"secretKeyRef": {"key": "password"', '"secretKeyRef": {"key": "pass"', "no key pass in Secret unsee-postgres"),
    ('"name": "unsee-object-store"}}', '"name": "store"}}', "no Secret store"),
    ('"configMapRef": {"name": "unsee-settings"', '"configMapRef": {"name": "settings"', "no ConfigMap settings"),
    ('"key": "UNSEE_STORE_REGION"', '"key": "REGION"', "no key REGION in ConfigMap unsee-settings"),
    ('"mountPath": "/data", "name": "data"', '"mountPath": "/data", "name": "disk"', "no volume disk"),
    ('"serviceName": "unsee-postgres"', '"serviceName": "postgres"', "no Service postgres"),
    ('"targetPort": "s3"', '"targetPort": "https"', "does not open port https"),
    ('"path": "/health", "port": "http"', '"path": "/health", "port": "web"', "asks port web"),
    ('"selector": {"app.kubernetes.io/name": "unsee-mlflow"}', '"selector": {"app": "mlflow"}', "selects no pod"),
    ('"matchLabels": {"app.kubernetes.io/name": "unsee-postgres"}}, "serviceName"',
     '"matchLabels": {"app": "postgres"}}, "serviceName"', "does not select its own pods"),
    ('"resourceNames": ["unsee-object-store"]', '"resourceNames": ["keys"]', "no secrets keys"),
    ('"kind": "Role", "name": "unsee-runner"', '"kind": "Role", "name": "runner"', "no Role runner"),
    ('http://unsee-mlflow:5000', 'http://unsee-tracking:5000', "no Service unsee-tracking"),
    ('http://unsee-mlflow:5000', 'http://unsee-mlflow:80', "Service unsee-mlflow has no port 80"),
    ('unsee-seaweedfs.unsee-dev.svc', 'unsee-seaweedfs.prod.svc', "is in another namespace"),
    ('secretName: unsee-object-store', 'secretName: keys', "no Secret keys"),
    ('secretRef:', 'secretReference:', "endpoint without credentials"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says"), RENAMED, ids=[says for _, _, says in RENAMED])
def test_a_renamed_thing_is_missed(rendered: Rendered, old: str, new: str, says: str) -> None:
    text = json.dumps(rendered("dev"), sort_keys=True)
    assert old in text
    found = dangling(json.loads(text.replace(old, new)))
    assert any(says in problem for problem in found), found


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"clusterQueue": "unsee"', '"clusterQueue": "other"', "no ClusterQueue other"),
        ('"flavors": [{"name": "unsee-default"', '"flavors": [{"name": "a100"', "no ResourceFlavor a100"),
        ('"coveredResources": ["cpu", "memory"', '"coveredResources": ["memory", "cpu"', "in order"),
        ('"minAvailable": 1, "selector": {"matchLabels": {',
         '"minAvailable": 1, "selector": {"matchLabels": {"a": "b", ',
         "PodDisruptionBudget/unsee-mlflow: selects no pod"),
    ],
)  # fmt: skip
def test_a_renamed_thing_of_prod_is_missed(rendered: Rendered, old: str, new: str, says: str) -> None:
    text = json.dumps(rendered("prod"), sort_keys=True)
    assert old in text
    found = dangling(json.loads(text.replace(old, new)))
    assert any(says in problem for problem in found), found


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"pipelineName": "attribution-audit"', '"pipelineName": "audit"', "no Pipeline audit"),
        (
            '"constant": "unsee-models", "mountPath"',
            '"constant": "models", "mountPath"',
            "no PersistentVolumeClaim models",
        ),
        ('"configMapName": "unsee-settings"', '"configMapName": "settings"', "no ConfigMap settings"),
        ('"configMapKey": "UNSEE_CACHE"', '"configMapKey": "CACHE"', "no key CACHE in ConfigMap unsee-settings"),
        ('"secretName": "unsee-object-store"', '"secretName": "keys"', "no Secret keys"),
    ],
)
def test_what_a_step_of_a_pipeline_misses_is_found(rendered: Rendered, old: str, new: str, says: str) -> None:
    text = json.dumps(rendered("k8s-native"), sort_keys=True)
    assert old in text
    found = dangling(json.loads(text.replace(old, new)))
    assert any(says in problem for problem in found), found
