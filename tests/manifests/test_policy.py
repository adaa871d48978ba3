"""Every rendered pod keeps to the "restricted" Pod Security Standard and to the house's rules; each rule can fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from manifests.objects import Object, executors, of_kind, pods
from manifests.policy import broken_rules
from manifests.rendering import RENDERINGS

Rendered = Callable[[str], list[Object]]


@pytest.mark.parametrize("name", RENDERINGS)
def test_every_pod_keeps_the_rules(rendered: Rendered, name: str) -> None:
    objects = rendered(name)
    assert {pod.kind for pod in pods(objects)} >= {"Deployment", "StatefulSet", "Job"}
    assert broken_rules(objects) == []


def _context(pod: Object) -> Object:
    context: Object = pod["containers"][0]["securityContext"]
    return context


SPOIL: list[tuple[str, Callable[[Object], object]]] = [
    ("hostNetwork", lambda pod: pod.update(hostNetwork=True)),
    ("volume host is a hostPath", lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}})),
    ("sysctls", lambda pod: pod["securityContext"].update(sysctls=[{"name": "a", "value": "b"}])),
    ("automountServiceAccountToken", lambda pod: pod.pop("automountServiceAccountToken")),
    ("runAsNonRoot", lambda pod: pod["securityContext"].pop("runAsNonRoot")),
    ("runAsNonRoot", lambda pod: _context(pod).update(runAsNonRoot=False)),
    ("user 0", lambda pod: _context(pod).update(runAsUser=0)),
    ("seccompProfile", lambda pod: pod["securityContext"].pop("seccompProfile")),
    ("seccompProfile", lambda pod: _context(pod).update(seccompProfile={"type": "Unconfined"})),
    ("privileged", lambda pod: _context(pod).update(privileged=True)),
    ("allowPrivilegeEscalation", lambda pod: _context(pod).pop("allowPrivilegeEscalation")),
    ("readOnlyRootFilesystem", lambda pod: _context(pod).update(readOnlyRootFilesystem=False)),
    ("drop ALL", lambda pod: _context(pod).pop("capabilities")),
    ("adds capability NET_ADMIN", lambda pod: _context(pod)["capabilities"].update(add=["NET_ADMIN"])),
    ("procMount", lambda pod: _context(pod).update(procMount="Unmasked")),
    ("names neither", lambda pod: pod["containers"][0].update(image="ghcr.io/a/b:latest")),
    ("names neither", lambda pod: pod["containers"][0].update(image="ghcr.io/a/b")),
    ("names neither", lambda pod: pod["containers"][0].update(image="ghcr.io/a/b:17")),
    ("no memory in limits", lambda pod: pod["containers"][0]["resources"]["limits"].pop("memory")),
    ("no cpu in requests", lambda pod: pod["containers"][0]["resources"].pop("requests")),
    ("by value", lambda pod: pod["containers"][0]["env"].append({"name": "PGPASSWORD", "value": "x"})),
    ("credentials", lambda pod: pod["containers"][0].update(args=["--uri=postgresql://mlflow:secret@db:5432/x"])),
    ("an init container", lambda pod: pod.update(initContainers=[{"name": "an init container", "image": "a:1.0.0"}])),
]


@pytest.mark.parametrize(("says", "spoil"), SPOIL, ids=[f"{number}-{says}" for number, (says, _) in enumerate(SPOIL)])
@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Job", "TrainingRuntime"])
def test_a_spoilt_pod_is_found(rendered: Rendered, kind: str, says: str, spoil: Callable[[Object], object]) -> None:
    objects = rendered("dev")
    pod = next(pod for pod in pods(objects) if pod.kind == kind)
    spoil(pod.spec)
    found = broken_rules(objects)
    assert any(problem.startswith(pod.owner.split("/")[0]) and says in problem for problem in found), found


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_a_server_without_a_probe_is_found(rendered: Rendered, probe: str) -> None:
    objects = rendered("dev")
    del of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0][probe]
    assert broken_rules(objects) == [f"Deployment/unsee-mlflow: mlflow: has no {probe}"]


def test_a_step_that_may_run_as_root_is_found(rendered: Rendered) -> None:
    objects = rendered("k8s-native")
    version = of_kind(objects, "PipelineVersion")[0]
    step = next(iter(executors(version)))
    executors(version)[step]["securityContext"]["runAsUser"] = "0"
    version["spec"]["pipelineSpec"]["deploymentSpec"]["executors"][step]["container"]["image"] = "unsee:latest"
    found = broken_rules(objects)
    assert len(found) == 2
    assert "may run as root" in found[0]
    assert "names neither" in found[1]


def test_wide_access_and_secrets_in_the_open_are_found(rendered: Rendered) -> None:
    objects = rendered("dev")
    role = of_kind(objects, "Role")[0]
    role["rules"] += [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
    role["rules"] += [{"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]}]
    of_kind(objects, "ConfigMap")[0]["data"]["DB_PASSWORD"] = "x"
    objects.append({"kind": "ClusterRole", "metadata": {"name": "all"}, "rules": []})
    found = "\n".join(broken_rules(objects))
    for says in ("without resourceNames", "wildcard in resources", "wildcard in verbs", "DB_PASSWORD", "beyond"):
        assert says in found
