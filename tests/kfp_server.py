"""A Kubeflow Pipelines for tests: a real HTTP server that speaks the part of its v2beta1 interface that unsee uses.

It keeps what it is given, checks bodies with the models of Kubeflow's own client, and refuses what the real one
refuses. A run goes through the states that the test has written down for it.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import functools
import json
import re
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api
import yaml

TOKEN = "eyJhbGciOiJub25l.a-token-that-nobody-may-see.c2lnbmF0dXJl"
ROOT = "/apis/v2beta1"
TYPES = {"str": str, "int": int, "bool": bool, "datetime": str, "object": object}
KINDS: dict[str, Any] = {
    "STRING": str,
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}

State = tuple[str, dict[str, str]]
"""State of a run, and of its tasks by name."""
SUCCESS: list[State] = [
    ("PENDING", {}),
    ("RUNNING", {"root": "RUNNING", "plan-driver": "SUCCEEDED", "plan": "RUNNING"}),
    ("RUNNING", {"root": "RUNNING", "plan": "SUCCEEDED", "executor": "SUCCEEDED", "for-loop-1": "RUNNING"}),
    ("RUNNING", {"plan": "SUCCEEDED", "score": "RUNNING", "gather": "PENDING"}),
    ("SUCCEEDED", {"root": "SUCCEEDED", "plan": "SUCCEEDED", "score": "SUCCEEDED", "for-loop-1": "SUCCEEDED"}),
]
FAILURE: list[State] = [
    ("RUNNING", {"plan": "RUNNING"}),
    ("FAILED", {"root": "FAILED", "plan": "FAILED", "executor": "FAILED", "score-driver": "FAILED"}),
]


class RefusedError(Exception):
    """The server says no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Kfp:
    """What the server knows, and what it has been asked.

    Attributes:
        token: the one it accepts; None: it asks for none.
        story: the states that a run goes through, one for each time it is asked for; the last one stays.
        started: called with the id of every run that is started.
        refused: what requests that it will not do begin with, such as "DELETE /runs/".
        failing: so many requests to come are answered with 503.
        requests: "METHOD path" of every request.
        authorizations: the headers they came with.
    """

    url: str = ""
    token: str | None = None
    multi_user: bool = False
    story: list[State] = field(default_factory=lambda: list(SUCCESS))
    started: Callable[[str], None] = lambda run_id: None
    refused: tuple[str, ...] = ()
    failing: int = 0
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring_runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, request: str) -> int:
        """How often it was asked this; the path without the interface's root."""
        return sum(each == request for each in self.requests)

    def answer(  # noqa: PLR0911, PLR0912  (a case for every path)
        self, method: str, path: str, query: dict[str, str], body: bytes, content_type: str
    ) -> dict[str, Any]:
        """Raises RefusedError."""
        parts = [unquote(part) for part in path.split("/") if part]
        match method, *parts:
            case "GET", "healthz":
                return {"multi_user": self.multi_user, "pipeline_store": "database"}
            case "GET", "pipelines", "names", name:
                self._scoped(query.get("namespace", ""))
                for each in self.pipelines.values():
                    if each["name"] == name and each.get("namespace", "") == query.get("namespace", ""):
                        return each
                raise RefusedError(404, f"Namespace/Pipeline /{name} not found.")
            case "POST", "pipelines":
                made = self._body(body, "V2beta1Pipeline")
                self._scoped(made.get("namespace", ""))
                return self._kept(self.pipelines, "pipeline_id", made)
            case "POST", "pipelines", "upload_version":
                return self._uploaded(query, body, content_type)
            case "GET", "pipelines", pipeline, "versions":
                of = [v for v in self.versions.values() if v["pipeline_id"] == pipeline]
                return self._listed("V2beta1ListPipelineVersionsResponse", of, query)
            case "DELETE", "pipelines", pipeline, "versions", version:
                self._gone(self.versions, version)
            case "DELETE", "pipelines", pipeline:
                if any(version["pipeline_id"] == pipeline for version in self.versions.values()):
                    raise RefusedError(400, "Cannot delete pipeline as it has existing pipeline versions.")
                self._gone(self.pipelines, pipeline)
            case "GET", "experiments":
                self._scoped(query.get("namespace", ""))
                return self._listed("V2beta1ListExperimentsResponse", list(self.experiments.values()), query)
            case "POST", "experiments":
                made = self._body(body, "V2beta1Experiment")
                self._scoped(made.get("namespace", ""))
                return self._kept(self.experiments, "experiment_id", made)
            case "DELETE", "experiments", experiment:
                self._gone(self.experiments, experiment)
            case "POST", "runs":
                made = self._checked_run(self._body(body, "V2beta1Run"))
                kept = self._kept(self.runs, "run_id", {**made, "left": list(self.story)})
                self.started(kept["run_id"])
                return _created(kept)
            case "GET", "runs", run:
                return self._shown(self._found(self.runs, run))
            case "POST", "runs", run if run.endswith(":terminate"):
                self._found(self.runs, run.removesuffix(":terminate"))["left"] = [("CANCELED", {})]
            case "DELETE", "runs", run:
                self._gone(self.runs, run)
            case "GET", "recurringruns":
                self._scoped(query.get("namespace", ""))
                return self._listed("V2beta1ListRecurringRunsResponse", list(self.recurring_runs.values()), query)
            case "POST", "recurringruns":
                made = self._checked_run(self._body(body, "V2beta1RecurringRun"))
                self._scoped(made.get("namespace", ""))
                return self._kept(self.recurring_runs, "recurring_run_id", self._checked_schedule(made))
            case "DELETE", "recurringruns", recurring_run:
                self._gone(self.recurring_runs, recurring_run)
            case _:
                raise RefusedError(404, "Not Found")
        return {}

    def _uploaded(self, query: dict[str, str], body: bytes, content_type: str) -> dict[str, Any]:
        head = f"Content-Type: {content_type}\r\nMIME-Version: 1.0\r\n\r\n".encode()
        message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        (part,) = message.iter_parts()
        if part.get_param("name", header="content-disposition") != "uploadfile":
            raise RefusedError(400, "Failed to read pipeline from file")
        pipeline = self._found(self.pipelines, query["pipelineid"])["pipeline_id"]
        if any(v["pipeline_id"] == pipeline and v["name"] == query["name"] for v in self.versions.values()):
            raise RefusedError(409, "Failed to create a pipeline version")
        documents = json.loads(as_json(part.get_content()), parse_int=float)
        if "pipelineInfo" not in documents[0]:
            raise RefusedError(400, "Failed to create a pipeline version")
        spec = (
            documents[0]
            if len(documents) == 1
            else dict(zip(("pipeline_spec", "platform_spec"), documents, strict=True))
        )
        made = {"pipeline_id": pipeline, "name": query["name"], "pipeline_spec": spec}
        made |= {"display_name": query.get("display_name", query["name"]), "description": query.get("description", "")}
        return self._kept(self.versions, "pipeline_version_id", made)

    def _checked_run(self, made: dict[str, Any]) -> dict[str, Any]:
        if made.get("pipeline_spec") is not None:
            spec = made["pipeline_spec"]
        else:
            reference = made["pipeline_version_reference"]
            version = self._found(self.versions, reference["pipeline_version_id"])
            if version["pipeline_id"] != reference["pipeline_id"]:
                raise RefusedError(400, "the version is another pipeline's")
            spec = version["pipeline_spec"]
        self._found(self.experiments, made["experiment_id"])
        if not made.get("display_name"):
            raise RefusedError(400, "The run name is empty. Please specify a valid name")
        declared = spec.get("pipeline_spec", spec)["root"]["inputDefinitions"]["parameters"]
        given = made["runtime_config"].get("parameters") or {}
        for name, value in given.items():
            if name not in declared:
                raise RefusedError(400, f"input parameter {name} is not defined in the pipeline")
            expected = KINDS[declared[name]["parameterType"]]
            if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
                raise RefusedError(400, f"input parameter {name} has the wrong type: {value!r}")
        missing = [
            n for n, d in declared.items() if n not in given and not d.get("isOptional") and "defaultValue" not in d
        ]
        if missing:
            raise RefusedError(400, f"input parameters {missing} are not given")
        return made

    def _checked_schedule(self, made: dict[str, Any]) -> dict[str, Any]:
        cron = made["trigger"]["cron_schedule"]["cron"]
        if not cron.startswith("@") and not re.fullmatch(r"([0-9*?/,LW-]+ ){5}[0-9*?/,A-Z#-]+", cron):
            raise RefusedError(400, f"Schedule cron is not a supported format. Error: {cron}")
        if not 1 <= int(made["max_concurrency"]) <= 10:
            raise RefusedError(400, "The max concurrency of the recurring run is out of range.")
        return {**made, "status": "ENABLED" if made["mode"] == "ENABLE" else "DISABLED"}

    def _shown(self, run: dict[str, Any]) -> dict[str, Any]:
        left = run["left"]
        state, tasks = left.pop(0) if len(left) > 1 else left[0]
        details = [
            {"run_id": run["run_id"], "task_id": f"{run['run_id']}-{name}", "display_name": name, "state": each}
            for name, each in tasks.items()
        ]
        return {**_created(run), "state": state, "run_details": {"task_details": details}}

    def _listed(self, model: str, found: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
        if "filter" in query:
            (predicate,) = json.loads(query["filter"])["predicates"]
            if set(predicate) != {"operation", "key", "stringValue"} or predicate["operation"] != "EQUALS":
                raise RefusedError(400, "failed to parse the filter")
            found = [each for each in found if each[predicate["key"]] == predicate["stringValue"]]
        if not found:
            return {}
        answer = getattr(kfp_server_api.models, model)
        (name,) = (answer.attribute_map[key] for key, kind in answer.openapi_types.items() if kind.startswith("list["))
        listed = {name: found, "total_size": len(found)}
        check(listed, model, model)
        return listed

    def _scoped(self, namespace: str) -> None:
        if self.multi_user and not namespace:
            raise RefusedError(400, "a namespace is required")
        if not self.multi_user and namespace:
            raise RefusedError(400, "In single-user mode, there is no namespace to be given.")

    def _body(self, body: bytes, model: str) -> dict[str, Any]:
        """JSON that is of this model, and of nothing else."""
        try:
            value = json.loads(body)
        except ValueError as error:
            raise RefusedError(400, "no JSON") from error
        check(value, model, model)
        found: dict[str, Any] = value
        return found

    @staticmethod
    def _kept(kept: dict[str, dict[str, Any]], key: str, made: dict[str, Any]) -> dict[str, Any]:
        if key in made:
            raise RefusedError(400, f"{key} must not be given")
        identity = str(uuid.uuid4())
        kept[identity] = {**made, key: identity}
        return kept[identity]

    @staticmethod
    def _found(kept: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
        if key not in kept:
            raise RefusedError(404, f"{key} not found.")
        return kept[key]

    def _gone(self, kept: dict[str, dict[str, Any]], key: str) -> None:
        self._found(kept, key)
        del kept[key]


@functools.cache
def as_json(text: str | bytes) -> str:
    """The documents of a YAML file: what comes back has gone through another language's numbers and order of keys."""
    return json.dumps(list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))), sort_keys=True)


def _created(run: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key != "left"}


def check(value: Any, kind: str, where: str) -> None:
    """Compare a JSON value with a type of Kubeflow's client, which itself takes nearly everything.

    Raises:
        RefusedError: a field is unknown or of another type.
    """
    if kind.startswith("dict("):
        check_is(value, dict, where)
        inner = kind.removeprefix("dict(str, ").removesuffix(")")
        for key, each in value.items():
            check(each, inner, f"{where}.{key}")
    elif kind.startswith("list["):
        check_is(value, list, where)
        for each in value:
            check(each, kind.removeprefix("list[").removesuffix("]"), where)
    elif kind in TYPES:
        check_is(value, TYPES[kind], where)
        if kind == "datetime":
            datetime.fromisoformat(value)
    else:
        model = getattr(kfp_server_api.models, kind)
        if not model.openapi_types:
            allowed = {each for name, each in vars(model).items() if name.isupper()}
            if value not in allowed:
                raise RefusedError(400, f"{where} is {value}, not one of {sorted(allowed)}")
            return
        check_is(value, dict, where)
        fields = {json_name: model.openapi_types[name] for name, json_name in model.attribute_map.items()}
        for key, each in value.items():
            if key not in fields:
                raise RefusedError(400, f'proto: unknown field "{key}" in {where}')
            check(each, fields[key], f"{where}.{key}")


def check_is(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise RefusedError(400, f"{where} is {value!r}, which is no {kind.__name__}")


def handler_for(kfp: Kfp) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            path = parts.path.removeprefix(ROOT)
            with kfp.lock:
                kfp.requests.append(f"{self.command} {path}")
                kfp.authorizations.append(self.headers.get("Authorization"))
                try:
                    self._admit(parts.path)
                    found = kfp.answer(self.command, path, query, body, self.headers.get("Content-Type") or "")
                except RefusedError as error:
                    told = {"error": str(error), "code": 5, "message": str(error), "details": []}
                    self._send(error.status, told)
                else:
                    self._send(200, found)

        def _admit(self, path: str) -> None:
            if kfp.failing:
                kfp.failing -= 1
                raise RefusedError(503, "upstream connect error")
            if kfp.requests[-1].startswith(kfp.refused):
                raise RefusedError(403, "not allowed")
            if kfp.token is not None and self.headers.get("Authorization") != f"Bearer {kfp.token}":
                raise RefusedError(401, f"there is no user behind {self.headers.get('Authorization')}")
            if not path.startswith(ROOT):
                raise RefusedError(404, "Not Found")

        def _send(self, status: int, found: dict[str, Any]) -> None:
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = do  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextlib.contextmanager
def kfp_server(certificate: tuple[Path, Path] | None = None, **settings: Any) -> Iterator[Kfp]:
    """The server, on a free port of the loopback interface.

    Args:
        certificate: (certificate, key) in PEM format: speak TLS.
        settings: see `Kfp`.
    """
    kfp = Kfp(**settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(kfp))
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    kfp.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield kfp
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
