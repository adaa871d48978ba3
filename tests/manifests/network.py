"""Who may talk to whom, worked out from the NetworkPolicies as a cluster does."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

from manifests.objects import Object, of_kind, pods, selects, title

HERE = "here"


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod by its labels and namespace, or an address outside."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = HERE
    address: str | None = None


# Pods that others make, as Kubeflow Pipelines 2.17, Argo and Kubernetes label them, and the ports that they open.
STEP = {"workflows.argoproj.io/workflow": "audit-x7f2p", "app.kubernetes.io/part-of": "unsee"}
STRANGERS: tuple[tuple[dict[str, str], frozenset[int]], ...] = (
    (STEP, frozenset()),
    ({"app": "ml-pipeline"}, frozenset({8887, 8888})),
    ({"app": "ml-pipeline-ui"}, frozenset({3000})),
    ({"app": "ml-pipeline-ui-artifact"}, frozenset({3000})),
    ({"component": "metadata-grpc-server"}, frozenset({8080})),
    ({"app": "seaweedfs"}, frozenset({8333})),
    ({"k8s-app": "kube-dns"}, frozenset({53})),
)


def reaches(objects: list[Object], source: End, target: End, port: int) -> bool:
    """Whether a connection is let out of `source` and into `target`."""
    out = target if source.address is None else None
    return _passes(objects, "Egress", source, out, port) and _passes(objects, "Ingress", target, source, port)


def empty_selectors(objects: list[Object]) -> list[str]:
    """A line per selector or port of a policy that means no pod we know of: a misspelt label opens no hole."""
    known = [(pod.labels, frozenset(pod.ports())) for pod in pods(objects)] + list(STRANGERS)
    problems = []
    for policy in of_kind(objects, "NetworkPolicy"):
        own = [ports for labels, ports in known if selects(policy["spec"]["podSelector"], labels)]
        if not own:
            problems.append(f"{title(policy)}: selects no pod")
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                there: list[frozenset[int]] = []
                for peer in _pod_peers(rule.get(side, [])):
                    met = [ports for labels, ports in known if selects(peer["podSelector"], labels)]
                    there += met
                    if not met:
                        problems.append(f"{title(policy)}: {direction} names no pod: {peer['podSelector']}")
                opened = own if direction == "ingress" else there
                for port in rule.get("ports", []) if opened else []:
                    if not any(port["port"] in ports for ports in opened):
                        problems.append(f"{title(policy)}: {direction} port {port['port']} is opened by nobody there")
    return problems


def _passes(objects: list[Object], direction: str, here: End, there: End | None, port: int) -> bool:
    if here.address is not None or here.namespace != HERE or there is None:
        return True
    policies = [
        policy["spec"]
        for policy in of_kind(objects, "NetworkPolicy")
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], here.labels)
    ]
    side = "from" if direction == "Ingress" else "to"
    rules = [rule for policy in policies for rule in policy.get(direction.lower(), [])]
    return not policies or any(_matches(rule, side, there, port) for rule in rules)


def _matches(rule: Object, side: str, there: End, port: int) -> bool:
    ports = [entry["port"] for entry in rule.get("ports", [])]
    return (not ports or port in ports) and (side not in rule or any(_is(peer, there) for peer in rule[side]))


def _is(peer: Object, there: End) -> bool:
    if "ipBlock" in peer:
        network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return there.address is not None and ipaddress.ip_address(there.address) in network
    if there.address is not None:
        return False
    if "namespaceSelector" in peer:
        home = {"kubernetes.io/metadata.name": there.namespace}
        return selects(peer["namespaceSelector"], home) and selects(peer.get("podSelector", {}), there.labels)
    return there.namespace == HERE and selects(peer["podSelector"], there.labels)


def _pod_peers(peers: list[Object]) -> Iterator[Object]:
    return (peer for peer in peers if "podSelector" in peer)
