"""What every pod must keep to: the "restricted" Pod Security Standard, and the house's own rules on top of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from manifests.objects import RUN_ONCE, Object, Pod, executors, of_kind, pods, strings, title

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SECCOMP = ("RuntimeDefault", "Localhost")
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
EXACT_TAG = re.compile(r":v?\d+\.\d+[^:/@]*$")
SECRET_NAME = re.compile(r"password|passwd|secret|token|access_?key|credential", re.IGNORECASE)


def broken_rules(objects: list[Object]) -> list[str]:
    """A line per rule that an object breaks; empty when all is well."""
    problems = []
    for pod in pods(objects):
        problems += [f"{pod.owner}: {problem}" for problem in (*_pod_rules(pod), *_container_rules(pod))]
    for version in of_kind(objects, "PipelineVersion"):
        problems += [f"{title(version)}: {problem}" for problem in _step_rules(version)]
    for thing in objects:
        problems += [f"{title(thing)}: {problem}" for problem in (*_access_rules(thing), *_secret_rules(thing))]
    return problems


def _step_rules(version: Object) -> Iterator[str]:
    """Kubeflow itself sees to seccomp, capabilities and escalation of every step; who it runs as is ours to say."""
    steps = version["spec"]["pipelineSpec"]["deploymentSpec"]["executors"]
    for name, step in steps.items():
        context = executors(version).get(name, {}).get("securityContext", {})
        if context.get("runAsNonRoot") is not True or int(context.get("runAsUser", 0)) == 0:
            yield f"{name}: may run as root"
        image = step["container"]["image"]
        if not DIGEST.search(image) and not EXACT_TAG.search(image):
            yield f"{name}: image {image} names neither a digest nor an exact tag"


def _pod_rules(pod: Pod) -> Iterator[str]:
    spec, context = pod.spec, pod.spec.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field} is set"
    for volume in spec.get("volumes", []):
        for forbidden in sorted(set(volume) - VOLUMES - {"name"}):
            yield f"volume {volume['name']} is a {forbidden}"
    if context.get("sysctls"):
        yield "sysctls are set"
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"


def _container_rules(pod: Pod) -> Iterator[str]:
    of_pod = pod.spec.get("securityContext", {})
    for container in pod.containers():
        own = container.get("securityContext", {})
        for problem in (*_privileges({**of_pod, **own}, own), *_hygiene(container)):
            yield f"{container['name']}: {problem}"
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield f"{container['name']}: hostPort is set"
    if pod.kind not in RUN_ONCE:
        for container in pod.spec["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe not in container:
                    yield f"{container['name']}: has no {probe}"


def _privileges(context: Object, own: Object) -> Iterator[str]:
    if context.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if context.get("runAsUser") == 0:
        yield "runs as user 0"
    if context.get("seccompProfile", {}).get("type") not in SECCOMP:
        yield "no seccompProfile"
    if own.get("privileged"):
        yield "is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    if "ALL" not in own.get("capabilities", {}).get("drop", []):
        yield "does not drop ALL capabilities"
    for capability in own.get("capabilities", {}).get("add", []):
        yield f"adds capability {capability}"
    if own.get("procMount", "Default") != "Default" or context.get("seLinuxOptions", {}).get("user"):
        yield "changes procMount or SELinux user"


def _hygiene(container: Object) -> Iterator[str]:
    image = container["image"]
    if not DIGEST.search(image) and not EXACT_TAG.search(image):
        yield f"image {image} names neither a digest nor an exact tag"
    for side in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            if resource not in container.get("resources", {}).get(side, {}):
                yield f"no {resource} in {side}"
    for variable in container.get("env", []):
        if SECRET_NAME.search(variable["name"]) and "value" in variable:
            yield f"secret {variable['name']} by value"


def _access_rules(thing: Object) -> Iterator[str]:
    if thing["kind"] in ("ClusterRole", "ClusterRoleBinding"):
        yield "reaches beyond its namespace"
    for rule in thing.get("rules", []) if thing["kind"] == "Role" else []:
        for field in ("apiGroups", "resources", "verbs"):
            if any("*" in value for value in rule[field]):
                yield f"wildcard in {field}"
        if {"secrets", "configmaps"} & set(rule["resources"]) and not rule.get("resourceNames"):
            yield f"{rule['resources']} without resourceNames"


def _secret_rules(thing: Object) -> Iterator[str]:
    """No secret outside a Secret: neither as a ConfigMap's key nor as `user:password@host` in any text."""
    for key in thing.get("data", {}) if thing in of_kind([thing], "ConfigMap") else []:
        if SECRET_NAME.search(key):
            yield f"secret {key} in a ConfigMap"
    for path, text in strings(thing):
        if re.search(r"://[^/\s:@]+:[^/\s@]+@", text):
            yield f"credentials in the address at {path}"
