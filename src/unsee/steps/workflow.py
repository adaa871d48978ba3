"""The tasks of a Kubeflow run that are no steps: the plan, the outcome, and the comparison of two reports."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unsee import artifacts
from unsee.errors import EnvironmentProblem, InputError, UnseeError
from unsee.params import load_params
from unsee.platform.tracking import Tracker
from unsee.report.comparison import compare, read_report
from unsee.report.markdown import comparison_page, summary_page
from unsee.steps.places import file_at
from unsee.steps.planning import Plan, plan, plan_of_report
from unsee.steps.registry import STEPS
from unsee.steps.task import Artifact, Metrics, linked_parts, set_up_logging, write_metrics

_log = logging.getLogger(__name__)
_SECONDS = 10
_PARTS = ("shards", "chunks", "jobs")


def plan_audit(parameters: Mapping[str, Any], overrides: Mapping[str, Any], force_rerun: str) -> tuple[Any, ...]:
    """What the component `plan` gives back: every step's params, then the parts of the fan-outs.

    Args:
        parameters: the pipeline's, by name.
        overrides: other keys of params.yaml, dotted.
        force_rerun: any text; another one makes every task run again.

    Raises:
        InputError: a value is wrong.
    """
    set_up_logging()
    planned = plan(parameters, overrides, force_rerun=force_rerun)
    _announce(planned)
    return (*planned.steps.values(), *(getattr(planned, name) for name in _PARTS))


def plan_again(report_uri: str, original: Artifact, run_shards: int, force_rerun: str) -> tuple[Any, ...]:
    """What the component `recall` gives back: the plan that leads to a report again, without its proof.

    Args:
        report_uri: path of a report.json, or s3://bucket/key.
        original: where the report is kept for the comparison.
        run_shards: parts that the records are split into.
        force_rerun: any text; another one makes every task run again.

    Raises:
        InputError: there is no such report, or it is not one.
    """
    set_up_logging()
    place = Path(original.path)
    place.parent.mkdir(parents=True, exist_ok=True)
    path = file_at(report_uri, load_params(), "report_uri", place)
    report = read_report(path)
    if path != place:
        shutil.copyfile(path, place)
    planned = plan_of_report(report, run_shards, force_rerun=force_rerun)
    _announce(planned)
    steps = [text for name, text in planned.steps.items() if name not in {"retrain", "verify"}]
    return (*steps, planned.shards, planned.chunks)


def gather_parts(parts: Sequence[Artifact], whole: Artifact) -> None:
    """Copy the parts of an artifact into one folder.

    Raises:
        ArtifactError: a part is missing or corrupt.
    """
    set_up_logging()
    place = Path(whole.path)
    with tempfile.TemporaryDirectory() as scratch:
        linked = linked_parts(parts, Path(scratch) / "parts")
        kind = artifacts.kind_of(linked)
        spec = next(spec for spec in STEPS.values() if spec.kind == kind)
        found = artifacts.read_parts(linked, spec.kind, spec.schema_version)
        with artifacts.disk_errors(place):
            part = place.with_name(f"{place.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            for number, folder in enumerate(found.folders):
                shutil.copytree(folder, part / f"{number:05d}")
            part.rename(place)
    whole.metadata.update({"kind": kind, "digest": found.digest, "parts": len(found.folders)})


def show_report(report: Artifact, html: Artifact, summary: Artifact, metrics: Metrics) -> None:
    """Put a report where Kubeflow's user interface shows it."""
    folder = Path(report.path)
    facts = read_report(folder / artifacts.REPORT_JSON)
    shutil.copyfile(folder / artifacts.REPORT_HTML, html.path)
    Path(summary.path).write_text(summary_page(facts), encoding="utf-8")
    done = [query for query in facts["queries"] if query["status"] == "ok"]
    ends = [query["ranking"]["signal_end"] for query in done]
    write_metrics(
        metrics,
        {
            "queries": float(len(facts["queries"])),
            "failed_queries": float(len(facts["queries"]) - len(done)),
            "records": float(facts["data"]["records"]),
            "mean_signal_end": sum(ends) / len(ends) if ends else 0.0,
        },
    )


def compare_reports(
    original: Artifact, report: Artifact, summary: Artifact, metrics: Metrics, tolerance: float
) -> None:
    """Compare two reports, write what differs, and fail where anything does.

    Raises:
        InputError: they differ by more than the tolerance.
    """
    set_up_logging()
    found = compare(read_report(Path(original.path)), read_report(Path(report.path) / artifacts.REPORT_JSON), tolerance)
    Path(summary.path).write_text(comparison_page(found), encoding="utf-8")
    write_metrics(metrics, {"differences": float(len(found.differences)), "largest_difference": found.largest})
    if found.differences:
        problem = f"does not hold: {'; '.join(found.differences[:5])}."
        raise InputError(problem, file=original.path, remedy="See the task's summary for everything that differs.")
    _log.info("the report holds: the largest difference is %.2g of the mean baseline loss", found.largest)


def finish_audit(*, state: str, run: str, message: str, overrides: Mapping[str, Any], notify_url: str) -> None:
    """End the shared run in MLflow, and post the outcome; that neither works is told, and fails nothing.

    Args:
        state: Kubeflow's: SUCCEEDED, FAILED, CANCELLED.
        run: Kubeflow's name of the run.
        message: why it failed, where it did.
        overrides: the pipeline's, of which `tracking.*` matters here.
        notify_url: address that takes JSON by POST; empty: none.
    """
    set_up_logging()
    status = {"SUCCEEDED": "FINISHED", "CANCELLED": "KILLED"}.get(state, "FAILED")
    tags = {"kfp.run": run, "kfp.state": state, **({"unsee.failure": message} if message else {})}
    page: str | None = None
    try:
        tracking = {key: value for key, value in overrides.items() if key.startswith("tracking.")}
        with tempfile.TemporaryDirectory() as scratch:
            page = Tracker.finish_shared(load_params(None, tracking), Path(scratch), status, tags)
    except UnseeError as error:
        _log.warning("the run in MLflow could not be ended: %s", error)
    outcome = {"run": run, "state": state, "message": message, "mlflow": page}
    _log.info("outcome: %s", json.dumps(outcome, ensure_ascii=False))
    if notify_url:
        try:
            post(notify_url, outcome)
        except (EnvironmentProblem, InputError) as error:
            _log.warning("%s", error)


def post(url: str, body: Mapping[str, Any]) -> None:
    """POST JSON to an http or https address.

    Raises:
        InputError: it is no such address.
        EnvironmentProblem: nobody answers, or not with success.
    """
    parts = urllib.parse.urlsplit(url)
    # The query and the user part of an address often are its secret.
    shown = f"{parts.scheme}://{parts.hostname}"
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InputError("is no http address.", field="notify_url", remedy="Write https://host/path.")
    data = json.dumps(body, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers, method="POST")  # noqa: S310  (the scheme is checked above)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310
            return
    except OSError as error:
        problem = f"the outcome could not be posted to {shown} ({type(error).__name__})."
        raise EnvironmentProblem(problem, field="notify_url", remedy="Check the address.") from error


def _announce(planned: Plan) -> None:
    with tempfile.TemporaryDirectory() as scratch, Tracker.join(planned.params, Path(scratch), first=True) as tracker:
        if tracker.run_url is not None:
            _log.info("tracked as %s", tracker.run_url)
    _log.info("planned: %s", ", ".join(f"{len(getattr(planned, name))} {name}" for name in _PARTS))
