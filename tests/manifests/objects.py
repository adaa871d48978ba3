"""Rendered Kubernetes objects, and the pods in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

Object = dict[str, Any]
RUN_ONCE = ("Job", "TrainingRuntime")
CLUSTER_SCOPED = ("ClusterQueue", "ResourceFlavor")


@dataclass(frozen=True)
class Pod:
    """A pod template and whose it is; `claims` are the volumes that a StatefulSet adds to it."""

    owner: str
    kind: str
    labels: dict[str, str]
    spec: Object
    claims: frozenset[str] = frozenset()

    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def ports(self) -> dict[int, str | None]:
        """Number and name of every port that a container opens."""
        found = [port for container in self.containers() for port in container.get("ports", [])]
        return {port["containerPort"]: port.get("name") for port in found}


def load(text: str) -> list[Object]:
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def title(thing: Object) -> str:
    return f"{thing['kind']}/{thing['metadata']['name']}"


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [thing for thing in objects if thing["kind"] in kinds]


def names(objects: list[Object], *kinds: str) -> set[str]:
    return {thing["metadata"]["name"] for thing in of_kind(objects, *kinds)}


def pods(objects: list[Object]) -> list[Pod]:
    """The pods of every workload, those of a TrainingRuntime's jobs too."""
    found = []
    for thing in objects:
        kind, spec, owner = thing["kind"], thing.get("spec", {}), title(thing)
        if kind in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            claims = frozenset(claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", []))
            found.append(_pod(owner, kind, spec["template"], claims))
        elif kind == "CronJob":
            found.append(_pod(owner, "Job", spec["jobTemplate"]["spec"]["template"]))
        elif kind == "Pod":
            found.append(_pod(owner, kind, thing))
        elif kind == "TrainingRuntime":
            for job in spec["template"]["spec"]["replicatedJobs"]:
                found.append(_pod(f"{owner}/{job['name']}", kind, job["template"]["spec"]["template"]))
    return found


def executors(version: Object) -> dict[str, Object]:
    """What a PipelineVersion asks of Kubernetes for each of its steps."""
    platforms = version["spec"].get("platformSpec", {}).get("platforms", {})
    found: dict[str, Object] = platforms.get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    return found


def strings(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a tree, with its path."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from strings(value, f"{path}/{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from strings(value, f"{path}/{number}")


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector picks a pod; an empty one picks every pod."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        key, values = rule["key"], rule.get("values", [])
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not holds[rule["operator"]]:
            return False
    return True


def _pod(owner: str, kind: str, template: Object, claims: frozenset[str] = frozenset()) -> Pod:
    labels = template.get("metadata", {}).get("labels", {})
    return Pod(owner, kind, labels, template["spec"], claims)
