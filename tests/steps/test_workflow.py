"""The tasks of a Kubeflow run that are no steps."""

from __future__ import annotations

import copy
import http.server
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from report_content import Build
from unsee.errors import EnvironmentProblem, InputError
from unsee.params import load_params
from unsee.report.summary import summarise
from unsee.steps.planning import PIPELINE_KEYS, pipeline_name, shipped
from unsee.steps.registry import STEPS
from unsee.steps.workflow import compare_reports, finish_audit, plan_again, plan_audit, post, show_report

PARAMETERS = {pipeline_name(key): shipped(pipeline_name(key)) for key in PIPELINE_KEYS} | {"data_source": "digits"}


class Handed:
    """An artifact as Kubeflow hands it over."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.metadata: dict[str, Any] = {}
        self.noted: dict[str, float] = {}

    def log_metric(self, metric: str, value: float) -> None:
        self.noted[metric] = value


@pytest.fixture
def listener() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that keeps what is posted to /ok, and refuses everything else."""
    posted: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.startswith("/ok"):
                posted.append(json.loads(body))
            self.send_response(200 if self.path.startswith("/ok") else 500)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    server.shutdown()
    server.server_close()


def test_the_plan_is_given_back_in_the_planners_order() -> None:
    *steps, shards, chunks, jobs = plan_audit(PARAMETERS, {}, "")
    assert len(steps) == len(STEPS)
    for name, text in zip(STEPS, steps, strict=True):
        assert set(STEPS[name].params) <= set(json.loads(text)["params"])
    assert (len(shards), len(chunks), jobs) == (4, 3, [])


def test_the_end_is_told_in_mlflow_and_to_whom_it_may_concern(
    listener: tuple[str, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, posted = listener
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("UNSEE_AUDIT", "run-9")
    overrides = {"tracking.experiment": "audits", "unlearn.loss_ratio": 2.0}
    plan_audit(PARAMETERS, overrides, "")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("audits")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["unlearn.loss_ratio"] == "2.0"
    assert run.info.status == "RUNNING"
    finish_audit(
        state="FAILED", run="audit-1", message="score: no space", overrides=overrides, notify_url=f"{url}/ok?key=1"
    )
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["unsee.failure"] == "score: no space"
    assert [(one["state"], one["run"], one["message"]) for one in posted] == [("FAILED", "audit-1", "score: no space")]


def test_an_outcome_that_cannot_be_posted_fails_nothing_and_gives_no_secret_away(
    listener: tuple[str, list[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    url, posted = listener
    with caplog.at_level(logging.INFO):
        finish_audit(state="SUCCEEDED", run="a", message="", overrides={}, notify_url=f"{url}/wrong?key=hush")
        finish_audit(state="SUCCEEDED", run="a", message="", overrides={}, notify_url="file:///etc/hush")
    assert posted == []
    assert "could not be posted" in caplog.text
    assert "hush" not in caplog.text


def test_only_http_addresses_are_posted_to(listener: tuple[str, list[dict[str, Any]]]) -> None:
    with pytest.raises(InputError, match="no http address"):
        post("ftp://host/x", {})
    with pytest.raises(EnvironmentProblem, match="could not be posted"):
        post(f"{listener[0]}/wrong", {})


@pytest.fixture
def written() -> dict[str, Any]:
    params = load_params(None, {"data.source": "digits"}).model_dump(mode="json")
    for hidden in ("tracking", "store", "cluster"):
        params.pop(hidden)
    return summarise(Build.content(params={**params, "run": {"dtype": "float32"}}))


def test_a_report_is_shown_where_the_interface_looks(written: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(written))
    (folder / "report.html").write_text("<p>page</p>")
    html, page, metrics = (Handed(tmp_path / name) for name in ("html", "md", "metrics"))
    show_report(Handed(folder), html, page, metrics)
    assert Path(html.path).read_text() == "<p>page</p>"
    assert Path(page.path).read_text().startswith("# ")
    assert metrics.noted["queries"] == len(written["queries"])
    assert 0 < metrics.noted["failed_queries"] < metrics.noted["queries"]
    assert json.loads(Path(metrics.path).read_text()) == metrics.noted


def test_a_report_is_recalled_and_compared(written: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    path.write_text(json.dumps(written))
    original = Handed(tmp_path / "kept")
    *steps, shards, chunks = plan_again(str(path), original, 2, "")
    assert len(steps) == len(STEPS) - 2
    assert (len(shards), len(chunks)) == (2, 3)
    assert json.loads(Path(original.path).read_text()) == written
    again = tmp_path / "again"
    again.mkdir()
    (again / "report.json").write_text(json.dumps(written))
    page, metrics = Handed(tmp_path / "md"), Handed(tmp_path / "metrics")
    compare_reports(original, Handed(again), page, metrics, 1e-5)
    assert metrics.noted == {"differences": 0.0, "largest_difference": 0.0}
    other = copy.deepcopy(written)
    other["queries"][0]["ranking"]["top"][0]["score"] *= 2
    (again / "report.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match="does not hold"):
        compare_reports(original, Handed(again), page, metrics, 1e-5)
    assert metrics.noted["differences"] == 1
    assert "does not hold" in Path(page.path).read_text()
