"""Kubeflow Pipelines, through its own client: uploading, running, watching and scheduling pipelines.

Every request has a time limit. What cannot be done comes as an error that a person can act on, and no token is ever
part of one.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unsee.artifacts import digest_of
from unsee.credentials import without_credentials
from unsee.errors import EnvironmentProblem, InputError
from unsee.platform.compiled import CompiledPipeline
from unsee.platform.kubeflow_client import TIMEOUT, Access, Unanswered, client_class, pod_namespace, settings_of, told

SERVICE_ACCOUNT = "unsee-runner"
PAUSE_SECONDS = 5.0
"""Between two looks at a run;"""
PATIENCE_SECONDS = 300.0
"""and how long it is looked for while the server does not answer."""

_PAGE = 50
_ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
# What the workflow engine adds around the tasks: their drivers, their pods, loops and branches.
_MACHINERY = re.compile(r"root|executor|(for-loop|condition|condition-branches|exit-handler|iteration)(-.*)?|.*-driver")
_MARK = "Made by `unsee pipeline schedule`, from "

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """A version of a pipeline that Kubeflow has; `new`: it has been uploaded just now."""

    pipeline_id: str
    version_id: str
    name: str
    new: bool


@dataclass(frozen=True)
class Task:
    """A task of a run: `key` is its own, `name` is that of every part of a fan-out."""

    key: str
    name: str
    state: str

    @property
    def machinery(self) -> bool:
        """It is none of the pipeline's tasks, but what Kubeflow runs around them."""
        return _MACHINERY.fullmatch(self.name) is not None


@dataclass(frozen=True)
class Run:
    """What a run is at, with the reason where it failed and Kubeflow tells one."""

    run_id: str
    name: str
    state: str
    tasks: tuple[Task, ...]
    error: str

    @property
    def ended(self) -> bool:
        """Nothing more will happen."""
        return self.state in _ENDED

    @property
    def succeeded(self) -> bool:
        """It has done all its work."""
        return self.state == "SUCCEEDED"


class Kubeflow:
    """A connection; open one with `connect`.

    Attributes:
        client: the `kfp.Client` itself.
        namespace: where runs belong to; None in an installation for one user, which has no namespaces.
    """

    def __init__(self, client: Any, access: Access) -> None:
        self.client = client
        self.namespace: str | None = None
        self._access = access

    @classmethod
    def connect(cls, access: Access) -> Kubeflow:
        """Connect, and make sure that it is Kubeflow Pipelines that answers.

        Raises:
            InputError: a setting cannot be used.
            EnvironmentProblem: kfp is not installed, nobody answers, or not as Kubeflow Pipelines does.
        """
        make = client_class()
        settings = settings_of(access)
        # The client warns about servers of long ago, and prints what it has to say.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            made = cls(make(**settings), access)
        with made._told():
            health = made._health()
        if not isinstance(health, dict):
            problem = "does not answer as Kubeflow Pipelines does."
            remedy = "Check the address (--host, UNSEE_KFP_HOST), and whether a token is asked for."
            raise EnvironmentProblem(problem, file=made.where, remedy=remedy)
        if health.get("multi_user"):
            made.namespace = access.namespace or made.client.get_user_namespace() or pod_namespace()
            if made.namespace is None:
                remedy = "Name yours with --namespace or UNSEE_KFP_NAMESPACE."
                raise InputError("every user has a namespace there.", file=made.where, field="namespace", remedy=remedy)
        elif access.namespace:
            _log.info("this Kubeflow Pipelines has no namespaces of its users; '%s' is not used", access.namespace)
        return made

    @property
    def where(self) -> str:
        """Its address, without what may be secret in it."""
        return without_credentials(str(self.client.runs.api_client.configuration.host))

    def page(self, run_id: str) -> str:
        """Address of a run in the user interface."""
        base = without_credentials(self._access.ui or self._access.host or "")
        return f"{base.rstrip('/')}/#/runs/details/{run_id}"

    def upload(self, pipeline: CompiledPipeline) -> Version:
        """Make sure that Kubeflow has this version of a pipeline.

        The version is called after unsee's own; where one of that name has another content, a digest is added.

        Raises:
            UnseeError: Kubeflow refuses, or does not answer.
        """
        with self._told():
            pipeline_id = self._pipeline_id(pipeline.name) or self._new_pipeline(pipeline)
            for name in (pipeline.version, f"{pipeline.version}-{pipeline.digest[:8]}"):
                found = self._version(pipeline_id, name)
                if found is None:
                    uploaded = self.client.pipeline_uploads.upload_pipeline_version(
                        str(pipeline.path),
                        name=name,
                        pipelineid=pipeline_id,
                        description=_described(pipeline),
                        _request_timeout=TIMEOUT,
                    )
                    return Version(pipeline_id, uploaded.pipeline_version_id, name, new=True)
                if found.description == _described(pipeline) or found.pipeline_spec in (
                    pipeline.content,
                    pipeline.content["pipeline_spec"],
                ):
                    return Version(pipeline_id, found.pipeline_version_id, name, new=False)
        problem = f"the version '{name}' has another content than its name says."
        raise EnvironmentProblem(problem, file=self.where, field=pipeline.name, remedy="Delete it there.")

    def start(
        self, version: Version, name: str, parameters: Mapping[str, Any], experiment: str, service_account: str | None
    ) -> str:
        """Start a run; returns its id.

        Args:
            name: what it is called.
            parameters: the pipeline's, where they are not as shipped.
            experiment: the experiment it belongs to, made where there is none.
            service_account: the account that its pods run as; None: Kubeflow's own.
        """
        with self._told():
            models = self.client.api_models
            body = models.V2beta1Run(
                experiment_id=self._experiment_id(experiment),
                display_name=name,
                pipeline_version_reference=self._reference(version),
                runtime_config=models.V2beta1RuntimeConfig(parameters=dict(parameters)),
                service_account=service_account,
            )
            made = self.client.runs.run_service_create_run(run=body, _request_timeout=TIMEOUT)
            return str(made.run_id)

    def run(self, run_id: str) -> Run:
        """What a run is at.

        Raises:
            InputError: there is no such run.
            UnseeError: Kubeflow refuses, or does not answer.
        """
        with self._told(missing=f"there is no run '{run_id}'."):
            found = self.client.runs.run_service_get_run(run_id=run_id, _request_timeout=TIMEOUT)
        details = (found.run_details.task_details if found.run_details else None) or []
        tasks = tuple(Task(each.task_id, each.display_name or "", each.state or "PENDING") for each in details)
        error = (found.error.message if found.error else None) or ""
        return Run(run_id, found.display_name or run_id, found.state or "PENDING", tasks, " ".join(error.split()))

    def wait(self, run_id: str, seconds: float | None = None) -> Iterator[Run]:
        """What a run is at, again and again until it has ended; a server that is away for a while is waited for.

        Args:
            seconds: at most; None: however long it takes.

        Raises:
            EnvironmentProblem: the time is over.
            UnseeError: as `run`.
        """
        start = time.monotonic()
        silent_since: float | None = None
        while True:
            try:
                now = self.run(run_id)
            except Unanswered as error:
                if silent_since is None:
                    silent_since = time.monotonic()
                    _log.warning("%s Trying again for %.0f s.", error.problem, PATIENCE_SECONDS)
                elif time.monotonic() - silent_since > PATIENCE_SECONDS:
                    raise
            else:
                silent_since = None
                yield now
                if now.ended:
                    return
            if seconds is not None and time.monotonic() - start > seconds:
                raise EnvironmentProblem(f"the run {run_id} has not ended after {seconds:.0f} s.", file=self.where)
            time.sleep(PAUSE_SECONDS)

    def schedule(
        self,
        name: str,
        cron: str,
        version: Version,
        parameters: Mapping[str, Any],
        experiment: str,
        service_account: str | None,
    ) -> str:
        """Make sure that a recurring run of this name is there, and that it is as described.

        Args:
            cron: when, in Kubeflow's six fields, the first of which are seconds.

        Returns:
            "created", "replaced", "unchanged", or "unchanged, but paused there".

        Raises:
            InputError: there is one of that name that was not made by `schedule`.
            UnseeError: Kubeflow refuses, or does not answer.
        """
        with self._told():
            models = self.client.api_models
            experiment_id = self._experiment_id(experiment)
            spec = [cron, version.pipeline_id, version.version_id, dict(parameters), experiment_id, service_account]
            mark = _MARK + digest_of(spec)
            there = self._own_recurring_runs(name)
            same = [each for each in there if each.description == mark]
            others = [each for each in there if each not in same[:1]]
            if not same:
                # First the new one: had it come second and been refused, there would be none.
                body = models.V2beta1RecurringRun(
                    display_name=name,
                    description=mark,
                    experiment_id=experiment_id,
                    namespace=self.namespace,
                    pipeline_version_reference=self._reference(version),
                    runtime_config=models.V2beta1RuntimeConfig(parameters=dict(parameters)),
                    service_account=service_account,
                    trigger=models.V2beta1Trigger(cron_schedule=models.V2beta1CronSchedule(cron=cron)),
                    mode=models.RecurringRunMode.ENABLE,
                    max_concurrency="1",
                    no_catchup=True,
                )
                api = self.client.recurring_runs
                api.recurring_run_service_create_recurring_run(recurring_run=body, _request_timeout=TIMEOUT)
            self._delete_recurring_runs(others)
        if same:
            return "unchanged, but paused there" if same[0].status == "DISABLED" else "unchanged"
        return "replaced" if others else "created"

    def unschedule(self, name: str) -> int:
        """Delete the recurring run of this name; returns how many there were. Raises as `schedule`."""
        with self._told():
            there = self._own_recurring_runs(name)
            self._delete_recurring_runs(there)
        return len(there)

    def _health(self) -> Any:
        """What the server says of itself: a mapping, where it is Kubeflow Pipelines."""
        # By its path: the client takes what is no JSON for an answer without content.
        answer, _, _ = self.client.runs.api_client.call_api(
            "/apis/v2beta1/healthz",
            "GET",
            header_params={"Accept": "application/json"},
            response_type="object",
            auth_settings=["Bearer"],
            _request_timeout=TIMEOUT,
        )
        return answer

    def _pipeline_id(self, name: str) -> str | None:
        try:
            found = self.client.pipelines.pipeline_service_get_pipeline_by_name(
                name=name, **self._scope, _request_timeout=TIMEOUT
            )
        except Exception as error:
            if getattr(error, "status", None) == 404:
                return None
            raise
        return str(found.pipeline_id)

    def _new_pipeline(self, pipeline: CompiledPipeline) -> str:
        body = self.client.api_models.V2beta1Pipeline(
            name=pipeline.name,
            display_name=pipeline.name,
            description=pipeline.content["pipeline_spec"]["pipelineInfo"].get("description", ""),
            namespace=self.namespace,
        )
        made = self.client.pipelines.pipeline_service_create_pipeline(pipeline=body, _request_timeout=TIMEOUT)
        return str(made.pipeline_id)

    def _version(self, pipeline_id: str, name: str) -> Any | None:
        listed = self.client.pipelines.pipeline_service_list_pipeline_versions(
            pipeline_id=pipeline_id, page_size=_PAGE, filter=_called(name), _request_timeout=TIMEOUT
        )
        return next((each for each in listed.pipeline_versions or [] if each.display_name == name), None)

    def _experiment_id(self, name: str) -> str:
        api = self.client.experiments
        listed = api.experiment_service_list_experiments(
            page_size=_PAGE, filter=_called(name), **self._scope, _request_timeout=TIMEOUT
        )
        found = next((each for each in listed.experiments or [] if each.display_name == name), None)
        if found is None:
            body = self.client.api_models.V2beta1Experiment(display_name=name, namespace=self.namespace)
            found = api.experiment_service_create_experiment(experiment=body, _request_timeout=TIMEOUT)
        return str(found.experiment_id)

    def _own_recurring_runs(self, name: str) -> list[Any]:
        listed = self.client.recurring_runs.recurring_run_service_list_recurring_runs(
            page_size=_PAGE, filter=_called(name), **self._scope, _request_timeout=TIMEOUT
        )
        found = [each for each in listed.recurring_runs or [] if each.display_name == name]
        if any(not (each.description or "").startswith(_MARK) for each in found):
            problem = f"the recurring run '{name}' was not made by `unsee pipeline schedule`."
            raise InputError(problem, file=self.where, remedy="Choose another name, or delete it there.")
        return found

    def _delete_recurring_runs(self, found: list[Any]) -> None:
        for each in found:
            self.client.recurring_runs.recurring_run_service_delete_recurring_run(
                recurring_run_id=each.recurring_run_id, _request_timeout=TIMEOUT
            )

    @property
    def _scope(self) -> dict[str, str]:
        return {} if self.namespace is None else {"namespace": self.namespace}

    def _reference(self, version: Version) -> Any:
        return self.client.api_models.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
        )

    def _told(self, missing: str | None = None) -> contextlib.AbstractContextManager[None]:
        secret = self.client.runs.api_client.configuration.api_key.get("authorization")
        return told(self.where, missing, secret)


def _described(pipeline: CompiledPipeline) -> str:
    return f"sha256 {pipeline.digest}"


def _called(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
