"""What each overlay is for."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from manifests.objects import CLUSTER_SCOPED, Object, names, of_kind, pods
from manifests.rendering import MANIFESTS, MIXTURES, OVERLAYS, folder_of, render

Rendered = Callable[[str], list[Object]]
NAMESPACES = {"kind": "kubeflow", "k8s-native": "kubeflow", "dev": "unsee-dev", "prod": "unsee"}
SHARED_NAMES = {
    "ServiceAccount": {"unsee-runner"},
    "ConfigMap": {"unsee-settings"},
    "PersistentVolumeClaim": {"unsee-models"},
    "Service": {"unsee-mlflow", "unsee-postgres"},
}
SETTINGS = {
    "UNSEE_CACHE", "UNSEE_STORE_ENDPOINT", "UNSEE_STORE_REGION", "UNSEE_STORE_SECURE", "UNSEE_STORE_PATH_STYLE",
    "UNSEE_STORE_CA_BUNDLE", "MLFLOW_TRACKING_URI",
    "AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION",
}  # fmt: skip


def test_the_four_overlays_are_there() -> None:
    assert set(OVERLAYS) == set(NAMESPACES)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_puts_everything_into_its_namespace(rendered: Rendered, name: str) -> None:
    for thing in rendered(name):
        expected = None if thing["kind"] in CLUSTER_SCOPED else NAMESPACES[name]
        assert thing["metadata"].get("namespace") == expected


@pytest.mark.parametrize("name", [each for each in MIXTURES if each.startswith("base")])
def test_the_base_and_the_components_name_no_namespace(rendered: Rendered, name: str) -> None:
    for thing in rendered(name):
        assert "namespace" not in thing["metadata"]
        for subject in thing.get("subjects", []):
            assert "namespace" not in subject


@pytest.mark.parametrize("name", [*OVERLAYS, *MIXTURES])
def test_the_names_that_code_relies_on_are_there(rendered: Rendered, name: str) -> None:
    objects = rendered(name)
    for kind, expected in SHARED_NAMES.items():
        assert names(objects, kind) >= expected
    (settings,) = [thing for thing in of_kind(objects, "ConfigMap") if thing["metadata"]["name"] == "unsee-settings"]
    assert set(settings["data"]) == SETTINGS


def test_kind_asks_for_passwords_and_has_none(tmp_path: Path, rendered: Rendered) -> None:
    bare = shutil.copytree(MANIFESTS, tmp_path / "manifests", ignore=shutil.ignore_patterns("*.env"))
    with pytest.raises(RuntimeError, match=r"object-store\.env"):
        render(bare / "overlays" / "kind")
    assert names(rendered("kind"), "Secret") == {"unsee-object-store", "unsee-postgres"}
    assert all("example" in path.name for path in bare.rglob("*.env*"))


@pytest.mark.parametrize("name", [name for name in [*OVERLAYS, *MIXTURES] if name not in ("kind", "k8s-native")])
def test_no_other_rendering_has_a_secret(rendered: Rendered, name: str) -> None:
    assert names(rendered(name), "Secret") == set()


def test_git_ignores_the_passwords() -> None:
    asked = [MANIFESTS / "overlays" / "kind" / name for name in ("object-store.env", "postgres.env")]
    done = subprocess.run(
        ["git", "check-ignore", *map(str, asked)], cwd=MANIFESTS, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == list(map(str, asked))


def test_the_pipelines_are_applied_once_they_are_compiled() -> None:
    overlay = MANIFESTS / "overlays" / "k8s-native"
    listed = yaml.safe_load((overlay / "kustomization.yaml").read_text())["resources"]
    compiled = {path.name for path in overlay.glob("*.yaml")} - {"kustomization.yaml"}
    assert compiled == set(listed) - {"../kind"}


@pytest.mark.parametrize("name", [*OVERLAYS, *MIXTURES])
def test_the_store_is_inside_or_outside_but_not_both(rendered: Rendered, name: str) -> None:
    objects = rendered(name)
    inside = [pod for pod in pods(objects) if pod.labels.get("app.kubernetes.io/component") == "object-store"]
    outside = name.startswith("prod") or "external-s3" in name
    assert len(inside) == (0 if outside else 1)
    assert ("unsee-make-bucket" in names(objects, "Job")) is not outside


@pytest.mark.parametrize("name", ["prod", "base+external-s3"])
def test_with_an_outside_store_no_key_is_left(rendered: Rendered, name: str) -> None:
    objects = rendered(name)
    assert "unsee-object-store" not in str(objects)
    for account in of_kind(objects, "ServiceAccount"):
        assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    (launcher,) = [thing for thing in of_kind(objects, "ConfigMap") if thing["metadata"]["name"] == "kfp-launcher"]
    assert yaml.safe_load(launcher["data"]["providers"])["s3"]["default"]["credentials"] == {"fromEnv": True}


@pytest.mark.parametrize("name", [*OVERLAYS, *MIXTURES])
def test_training_jobs_can_be_started_where_they_can_run(rendered: Rendered, name: str) -> None:
    objects = rendered(name)
    without = name in ("kind", "k8s-native") or name.endswith("+no-trainer")
    roles = of_kind(objects, "Role")
    assert ("trainjobs" in str(roles)) is not without
    assert ("pods/log" in str(roles)) is not without
    assert ("unsee-trainer" in names(objects, "ServiceAccount")) is not without
    assert names(objects, "TrainingRuntime") == (set() if without else {"unsee-torch"})


def test_prod_is_for_many_nodes(rendered: Rendered) -> None:
    objects = rendered("prod")
    (models,) = of_kind(objects, "PersistentVolumeClaim")
    assert models["spec"]["accessModes"] == ["ReadWriteMany"]
    (trainer,) = [pod for pod in pods(objects) if pod.kind == "TrainingRuntime"]
    assert trainer.spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "unsee-python-gpu" in trainer.spec["containers"][0]["image"]


def test_mlflow_is_reached_under_every_name_with_and_without_port(rendered: Rendered) -> None:
    (server,) = [pod for pod in pods(rendered("dev")) if pod.owner == "Deployment/unsee-mlflow"]
    (argument,) = [arg for arg in server.spec["containers"][0]["args"] if arg.startswith("--allowed-hosts=")]
    hosts = argument.removeprefix("--allowed-hosts=").split(",")
    bare = [host for host in hosts if ":" not in host]
    assert {f"{host}:5000" for host in bare} == set(hosts) - set(bare)
    assert {"unsee-mlflow", "unsee-mlflow.$(POD_NAMESPACE).svc.cluster.local", "localhost"} <= set(bare)
    assert not any("*" in host for host in hosts)


def test_one_setting_names_the_image_everywhere(copied: Path) -> None:
    overlay = Path(shutil.copytree(folder_of(copied, "dev"), copied / "overlays" / "pinned"))
    file = overlay / "kustomization.yaml"
    digest = "sha256:" + "a" * 64
    file.write_text(re.sub(r"newTag: .*", f"digest: {digest}", file.read_text()))
    images = [container["image"] for pod in pods(render(overlay)) for container in pod.containers()]
    ours = [image for image in images if "unsee-project" in image]
    assert len(ours) == 3
    assert set(ours) == {f"ghcr.io/unsee-project/unsee-python-cpu@{digest}"}
