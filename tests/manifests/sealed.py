"""A program: runs rendered pods for real, on one machine, without images or a cluster, and tells what it saw as JSON.

Each container's own command, arguments and environment run under the user, group and volumes of its pod, in a root
folder that is read-only but for these volumes. Services are names in /etc/hosts. It has to be started in mount, network
and process namespaces of its own (`ENTER`), so it needs root, touches nothing outside and leaves nothing behind.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests

from manifests.objects import Object, Pod, of_kind, pods

ENTER = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
# What an image would bring along.
SYSTEM = ("bin", "dev", "etc", "lib", "lib64", "opt", "proc", "sbin", "sys", "usr")
# The entrypoint of the image of Postgres, in short.
POSTGRES = """
printf %s "$POSTGRES_PASSWORD" > /tmp/password
initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 --locale=C "$PGDATA" >/dev/null
rm /tmp/password
(until pg_isready --quiet --host=/var/run/postgresql; do sleep 0.2; done
 PGPASSWORD="$POSTGRES_PASSWORD" createdb --host=/var/run/postgresql --username="$POSTGRES_USER" "$POSTGRES_DB") &
exec postgres -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
"""
PATIENCE_S = 150
OWN_NAMES = ("unsee-mlflow:5000", "unsee-mlflow.kubeflow.svc.cluster.local:5000", "unsee-mlflow.kubeflow.svc")
HOSTS = (*OWN_NAMES, "localhost:5000", "evil.example", "10.244.0.7:5000")


class Sealed:
    """One pod with one container, and the folder that is its root."""

    def __init__(self, objects: list[Object], pod: Pod, work: Path) -> None:
        self.pod, self.container = pod, pod.spec["containers"][0]
        self.context = {**pod.spec["securityContext"], **self.container["securityContext"]}
        self.name = self.container["name"]
        self.root, self.log = work / self.name, work / f"{self.name}.log"
        self.env = _environment(objects, self.container)
        self._build(objects, work / f"{self.name}-volumes")

    def command(self, *instead: str) -> list[str]:
        own = [*self.container.get("command", ["sh", "-c", POSTGRES]), *self.container.get("args", [])]
        line = list(instead) or [_expand(part, self.env) for part in own]
        user = f"--userspec={self.context['runAsUser']}:{self.context['runAsGroup']}"
        groups = f"--groups={self.context.get('fsGroup', self.context['runAsGroup'])}"
        start = f"--chdir={self.container.get('workingDir', '/')}"
        variables = [f"{name}={value}" for name, value in self.env.items()]
        return ["chroot", user, groups, str(self.root), "env", "-i", start, f"PATH={_path()}", *variables, *line]

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command(), stdout=log, stderr=subprocess.STDOUT)

    def run(self) -> tuple[int, str]:
        done = subprocess.run(self.command(), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        return done.returncode, done.stdout + done.stderr

    def ready(self) -> bool:
        """What the kubelet would find with the readiness probe."""
        probe = self.container["readinessProbe"]
        if "exec" in probe:
            line = self.command(*probe["exec"]["command"])
            return subprocess.run(line, capture_output=True, check=False).returncode == 0
        number = next(number for number, name in self.pod.ports().items() if name == probe["httpGet"]["port"])
        # The kubelet asks for the pod by its address.
        return status(f"http://127.0.0.1:{number}{probe['httpGet']['path']}", host=f"10.244.0.7:{number}") == 200

    def _build(self, objects: list[Object], volumes: Path) -> None:
        self.root.mkdir(parents=True)
        mount("-t", "tmpfs", "tmpfs", self.root)
        for source in (*(Path("/", name) for name in SYSTEM), Path(sys.base_prefix), Path(sys.prefix)):
            target = self.root.joinpath(*source.parts[1:])
            if source.is_symlink():
                target.symlink_to(source.readlink())
            elif source.is_dir() and not target.exists():
                target.mkdir(parents=True)
                mount("--rbind", source, target)
        for number, entry in enumerate(self.container["volumeMounts"]):
            source, target = volumes / str(number), self.root / entry["mountPath"].lstrip("/")
            source.mkdir(parents=True)
            target.mkdir(parents=True, exist_ok=True)
            self._fill(objects, source, entry["name"])
            mount("--bind", source, target)
            if entry.get("readOnly"):
                mount("-o", "remount,ro,bind", target)
        mount("-o", "remount,ro", self.root)

    def _fill(self, objects: list[Object], folder: Path, volume: str) -> None:
        spec = next((each for each in self.pod.spec.get("volumes", []) if each["name"] == volume), {})
        if "configMap" in spec:
            for name, text in _data(objects, "ConfigMap", spec["configMap"]["name"]).items():
                (folder / name).write_text(text)
        elif "fsGroup" in self.context:
            os.chown(folder, 0, self.context["fsGroup"])
            folder.chmod(0o2770)
        else:
            folder.chmod(0o777)


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def status(url: str, host: str) -> int | None:
    """The answer's number; None where nobody answers."""
    try:
        return int(requests.get(url, headers={"Host": host}, timeout=10).status_code)
    except requests.RequestException:
        return None


def open_to_others() -> dict[int, str]:
    """Port -> address, of everything that listens on more than the loopback address."""
    found = {}
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(file).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, port = local.split(":")
            if state == "0A" and address not in ("0100007F", "00000000000000000000000001000000"):
                found[int(port, 16)] = address
    return found


def track(objects: list[Object]) -> dict[str, Any]:
    """A run with a file, logged through the server and read back, as a step does it."""
    import mlflow
    from minio import Minio

    os.environ["MLFLOW_TRACKING_URI"] = _data(objects, "ConfigMap", "unsee-settings")["MLFLOW_TRACKING_URI"]
    mlflow.set_experiment("sealed")
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 0.5)
        mlflow.log_text("written by a step", "note.txt")
    key = _data(objects, "Secret", "unsee-object-store")
    store = Minio("unsee-seaweedfs:8333", key["accesskey"], key["secretkey"], secure=False, region="us-east-1")
    stored = [str(entry.object_name) for entry in store.list_objects("unsee", "mlflow/", recursive=True)]
    return {
        "artifact_uri": run.info.artifact_uri,
        "read_back": mlflow.artifacts.load_text(f"{run.info.artifact_uri}/note.txt"),
        "in_the_store": [name for name in stored if name.endswith("note.txt")],
        "metric": mlflow.get_run(run.info.run_id).data.metrics,
    }


def main(objects_file: str, work_folder: str) -> int:
    objects, work = json.loads(Path(objects_file).read_text()), Path(work_folder)
    _loopback_up()
    mount("--make-rprivate", "/")
    _name_the_services(objects, work)
    by_name = {pod.spec["containers"][0]["name"]: pod for pod in pods(objects) if pod.kind != "TrainingRuntime"}
    sealed = {name: Sealed(objects, pod, work) for name, pod in by_name.items()}
    report: dict[str, Any] = {}
    servers = {name: sealed[name].start() for name in ("postgres", "seaweedfs", "mlflow")}
    report["job"] = [sealed["make-bucket"].run() for _ in range(2)]
    report["models"] = [sealed["prepare-models"].run(), (work / "prepare-models-volumes/0/.checkpoints").stat()[:6]]
    report["not_ready"] = _wait(sealed, servers)
    if not report["not_ready"]:
        url = "http://127.0.0.1:5000/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
        report["hosts"] = {name: status(url, name) for name in HOSTS}
        report["open"] = open_to_others()
        report["tracked"] = track(objects)
    report["logs"] = {name: sealed[name].log.read_text(errors="replace") for name in servers}
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    report["commands"] = [line.replace(b"\0", b" ").decode(errors="replace") for line in lines]
    (work / "report.json").write_text(json.dumps(report))
    return 0


def _wait(sealed: dict[str, Sealed], servers: dict[str, subprocess.Popen[bytes]]) -> list[str]:
    until = time.monotonic() + PATIENCE_S
    waiting = list(servers)
    while waiting and time.monotonic() < until:
        waiting = [name for name in waiting if not sealed[name].ready()]
        for name in waiting:
            # As Kubernetes does with a server that came before its database.
            if servers[name].poll() is not None:
                servers[name] = sealed[name].start()
        time.sleep(1)
    return waiting


def _environment(objects: list[Object], container: Object) -> dict[str, str]:
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= _data(objects, "ConfigMap", source["configMapRef"]["name"])
    for variable in container.get("env", []):
        origin = variable.get("valueFrom", {})
        if "secretKeyRef" in origin:
            value = _data(objects, "Secret", origin["secretKeyRef"]["name"])[origin["secretKeyRef"]["key"]]
        elif "configMapKeyRef" in origin:
            value = _data(objects, "ConfigMap", origin["configMapKeyRef"]["name"])[origin["configMapKeyRef"]["key"]]
        elif "fieldRef" in origin:
            value = objects[0]["metadata"]["namespace"]
        else:
            value = _expand(variable["value"], found)
        found[variable["name"]] = value
    return found


def _data(objects: list[Object], kind: str, name: str) -> dict[str, str]:
    (thing,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"] == name]
    data: dict[str, str] = thing["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()} if kind == "Secret" else data


def _expand(text: str, env: dict[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: env.get(found[1], found[0]), text)


def _path() -> str:
    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return ":".join(map(str, (Path(sys.prefix) / "bin", *postgres, "/usr/bin", "/bin")))


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up and running


def _name_the_services(objects: list[Object], work: Path) -> None:
    services = " ".join(thing["metadata"]["name"] for thing in of_kind(objects, "Service"))
    users = "".join(f"u{uid}:x:{uid}:0::/tmp:/bin/sh\n" for uid in (0, 999, 10001))
    for name, text in {"hosts": f"127.0.0.1 localhost {services}\n", "passwd": users}.items():
        (work / name).write_text(text)
        mount("--bind", work / name, Path("/etc", name))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
