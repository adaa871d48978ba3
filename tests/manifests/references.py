"""Whether everything that an object names is there: accounts, secrets, settings, volumes, ports, host names."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from manifests.objects import Object, Pod, executors, names, of_kind, pods, selects, strings, title

# Supplied by whoever installs: README.md says so. Name -> keys.
SECRETS = {"unsee-object-store": {"accesskey", "secretkey"}, "unsee-postgres": {"username", "password"}}
# Made by Kubeflow in a namespace where it runs pipelines.
KUBEFLOW_SECRETS = {"mlpipeline-minio-artifact"}
KUBEFLOW_CONFIG = {"kfp-launcher"}
# After `//` or on its own, but not as the last part of an image's path.
HOST = re.compile(r"(?<![\w.$-])(?<!\w/)(unsee-[a-z0-9-]+)((?:\.[a-z0-9-]+)*):(\d+)")


def dangling(objects: list[Object]) -> list[str]:
    """A line per reference to something that is neither rendered nor supplied; empty when all is well."""
    known = Known(objects)
    problems = []
    for pod in pods(objects):
        problems += [f"{pod.owner}: {problem}" for problem in (*_pod(pod, known), *_sources(pod, known))]
    for check in (_services, _workloads, _access, _hosts, _queues, _pipelines, _launcher):
        problems += check(objects, known)
    return problems


class Known:
    """What can be referred to: name -> keys for configuration, names for the rest."""

    def __init__(self, objects: list[Object]) -> None:
        self.config = {thing["metadata"]["name"]: set(thing.get("data", {})) for thing in of_kind(objects, "ConfigMap")}
        rendered = {
            thing["metadata"]["name"]: {*thing.get("data", {}), *thing.get("stringData", {})}
            for thing in of_kind(objects, "Secret")
        }
        self.secrets = {**SECRETS, **rendered}
        self.accounts = names(objects, "ServiceAccount") | {"default"}
        self.claims = names(objects, "PersistentVolumeClaim")
        self.services = {thing["metadata"]["name"]: thing for thing in of_kind(objects, "Service")}
        self.namespaces = {thing["metadata"].get("namespace") for thing in objects} - {None}


def _pod(pod: Pod, known: Known) -> Iterator[str]:
    account = pod.spec.get("serviceAccountName", "default")
    if account not in known.accounts:
        yield f"no ServiceAccount {account}"
    volumes = {volume["name"] for volume in pod.spec.get("volumes", [])} | pod.claims
    for container in pod.containers():
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{container['name']}: no volume {mount['name']}"
        own_ports = {port.get("name") for port in container.get("ports", [])}
        own_ports |= {port["containerPort"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = container.get(probe, {}).get("httpGet", {}).get("port")
            if port is not None and port not in own_ports:
                yield f"{container['name']}: {probe} asks port {port}, which it does not open"


def _sources(pod: Pod, known: Known) -> Iterator[str]:
    for volume in pod.spec.get("volumes", []):
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and claim not in known.claims:
            yield f"no PersistentVolumeClaim {claim}"
        if "configMap" in volume and volume["configMap"]["name"] not in known.config:
            yield f"no ConfigMap {volume['configMap']['name']}"
        if "secret" in volume and volume["secret"]["secretName"] not in known.secrets:
            yield f"no Secret {volume['secret']['secretName']}"
    for container in pod.containers():
        for source in container.get("envFrom", []):
            yield from _has(known.config, "ConfigMap", source.get("configMapRef"))
            yield from _has(known.secrets, "Secret", source.get("secretRef"))
        for variable in container.get("env", []):
            value = variable.get("valueFrom", {})
            yield from _has(known.config, "ConfigMap", value.get("configMapKeyRef"))
            yield from _has(known.secrets, "Secret", value.get("secretKeyRef"))


def _has(known: dict[str, set[str]], kind: str, reference: Object | None) -> Iterator[str]:
    if reference is None:
        return
    if reference["name"] not in known:
        yield f"no {kind} {reference['name']}"
    elif "key" in reference and reference["key"] not in known[reference["name"]]:
        yield f"no key {reference['key']} in {kind} {reference['name']}"


def _services(objects: list[Object], known: Known) -> Iterator[str]:
    for service in known.services.values():
        picked = [pod for pod in pods(objects) if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)]
        if not picked:
            yield f"{title(service)}: selects no pod"
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            for pod in picked:
                if target not in pod.ports() and target not in pod.ports().values():
                    yield f"{title(service)}: {pod.owner} does not open port {target}"


def _workloads(objects: list[Object], known: Known) -> Iterator[str]:
    for thing in of_kind(objects, "Deployment", "StatefulSet"):
        if not selects(thing["spec"]["selector"], thing["spec"]["template"]["metadata"]["labels"]):
            yield f"{title(thing)}: does not select its own pods"
    for thing in of_kind(objects, "StatefulSet"):
        if thing["spec"]["serviceName"] not in known.services:
            yield f"{title(thing)}: no Service {thing['spec']['serviceName']}"
    for thing in of_kind(objects, "PodDisruptionBudget"):
        if not any(selects(thing["spec"]["selector"], pod.labels) for pod in pods(objects)):
            yield f"{title(thing)}: selects no pod"


def _access(objects: list[Object], known: Known) -> Iterator[str]:
    for binding in of_kind(objects, "RoleBinding"):
        if binding["roleRef"]["name"] not in names(objects, binding["roleRef"]["kind"]):
            yield f"{title(binding)}: no {binding['roleRef']['kind']} {binding['roleRef']['name']}"
        for subject in binding["subjects"]:
            if subject["name"] not in known.accounts:
                yield f"{title(binding)}: no ServiceAccount {subject['name']}"
    secrets, config = known.secrets.keys() | KUBEFLOW_SECRETS, known.config.keys() | KUBEFLOW_CONFIG
    readable = {"secrets": secrets, "configmaps": config}
    for role in of_kind(objects, "Role"):
        for rule in role["rules"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", []):
                    if name not in readable.get(resource, ()):
                        yield f"{title(role)}: no {resource} {name}"


def _hosts(objects: list[Object], known: Known) -> Iterator[str]:
    """Every `unsee-name[.namespace...]:port` in any text, in addresses and arguments alike."""
    for thing in objects:
        for path, text in strings(thing):
            for name, domain, port in HOST.findall(text):
                service = known.services.get(name)
                if service is None:
                    yield f"{title(thing)}: no Service {name} ({path})"
                elif int(port) not in {entry["port"] for entry in service["spec"]["ports"]}:
                    yield f"{title(thing)}: Service {name} has no port {port} ({path})"
                if domain and domain.split(".")[1] not in known.namespaces:
                    yield f"{title(thing)}: {name}{domain} is in another namespace ({path})"


def _queues(objects: list[Object], known: Known) -> Iterator[str]:
    for queue in of_kind(objects, "LocalQueue"):
        if queue["spec"]["clusterQueue"] not in names(objects, "ClusterQueue"):
            yield f"{title(queue)}: no ClusterQueue {queue['spec']['clusterQueue']}"
    for queue in of_kind(objects, "ClusterQueue"):
        for group in queue["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                if flavor["name"] not in names(objects, "ResourceFlavor"):
                    yield f"{title(queue)}: no ResourceFlavor {flavor['name']}"
                if [entry["name"] for entry in flavor["resources"]] != group["coveredResources"]:
                    yield f"{title(queue)}: flavor {flavor['name']} does not list the covered resources in order"


def _pipelines(objects: list[Object], known: Known) -> Iterator[str]:
    for version in of_kind(objects, "PipelineVersion"):
        if version["spec"]["pipelineName"] not in names(objects, "Pipeline"):
            yield f"{title(version)}: no Pipeline {version['spec']['pipelineName']}"
        for name, step in executors(version).items():
            yield from (f"{title(version)}: {name}: {problem}" for problem in _step(step, known))


def _step(step: Object, known: Known) -> Iterator[str]:
    for claim in step.get("pvcMount", []):
        if claim["constant"] not in known.claims:
            yield f"no PersistentVolumeClaim {claim['constant']}"
    for source in step.get("configMapAsEnv", []):
        for key in source["keyToEnv"]:
            reference = {"name": source["configMapName"], "key": key["configMapKey"]}
            yield from _has(known.config, "ConfigMap", reference)
    for source in step.get("secretAsEnv", []):
        for key in source["keyToEnv"]:
            yield from _has(known.secrets, "Secret", {"name": source["secretName"], "key": key["secretKey"]})


def _launcher(objects: list[Object], known: Known) -> Iterator[str]:
    """Kubeflow refuses an endpoint without credentials, and credentials that name nothing."""
    for thing in of_kind(objects, "ConfigMap"):
        for provider in yaml.safe_load(thing["data"].get("providers", "{}")).values():
            credentials = provider["default"].get("credentials", {})
            secret = credentials.get("secretRef")
            if not credentials.get("fromEnv") and secret is None:
                yield f"{title(thing)}: endpoint without credentials"
            for key in ("accessKeyKey", "secretKeyKey") if secret else ():
                reference = {"name": secret["secretName"], "key": secret[key]}
                yield from (f"{title(thing)}: {problem}" for problem in _has(known.secrets, "Secret", reference))
