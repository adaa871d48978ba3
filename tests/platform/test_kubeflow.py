"""Kubeflow Pipelines through its client, against a server of the tests' own; see tests/kfp_server.py."""

from __future__ import annotations

import http.server
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from certificates import make_certificate
from kfp_server import FAILURE, SUCCESS, TOKEN, Kfp, kfp_server
from servers import free_ports
from unsee.errors import EnvironmentProblem, InputError, UnseeError
from unsee.platform import kubeflow, kubeflow_client
from unsee.platform.compiled import AUDIT, CompiledPipeline, read_compiled
from unsee.platform.kubeflow import Kubeflow, Version
from unsee.platform.kubeflow_client import Access, Unanswered, settings_of


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of what a person has set up is seen, and nobody waits for long."""
    for name in list(os.environ):
        if name.startswith(("UNSEE_KFP", "KF_", "KUBE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setattr(kubeflow, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def kfp() -> Iterator[Kfp]:
    with kfp_server(token=TOKEN) as server:
        yield server


@pytest.fixture
def connected(kfp: Kfp) -> Kubeflow:
    return Kubeflow.connect(Access(kfp.url, TOKEN))


@pytest.fixture(scope="module")
def pipeline() -> CompiledPipeline:
    return read_compiled(AUDIT)


@pytest.fixture
def version(connected: Kubeflow, pipeline: CompiledPipeline) -> Version:
    return connected.upload(pipeline)


def changed(pipeline: CompiledPipeline, folder: Path, memory: str) -> CompiledPipeline:
    """The pipeline as it compiles for another cluster."""
    text = pipeline.path.read_text(encoding="utf-8").replace(
        "resourceMemoryLimit: 8Gi", f"resourceMemoryLimit: {memory}"
    )
    (folder / pipeline.path.name).write_text(text, encoding="utf-8")
    return read_compiled(pipeline.name, folder)


def test_uploading_twice_uploads_once(kfp: Kfp, connected: Kubeflow, pipeline: CompiledPipeline) -> None:
    first = connected.upload(pipeline)
    again = connected.upload(pipeline)
    assert (first.new, again.new) == (True, False)
    assert first.version_id == again.version_id
    assert first.name == "attribution-audit-0-1-0"
    assert kfp.count("POST /pipelines") == kfp.count("POST /pipelines/upload_version") == 1
    (kept,) = kfp.versions.values()
    assert kept["pipeline_spec"] == pipeline.content
    (there,) = kfp.pipelines.values()
    assert there["description"].startswith("Which training images")


def test_a_pipeline_that_somebody_else_uploaded_is_known_by_its_content(
    kfp: Kfp, connected: Kubeflow, version: Version, pipeline: CompiledPipeline
) -> None:
    kfp.versions[version.version_id]["description"] = "applied by a GitOps tool"
    assert connected.upload(pipeline).version_id == version.version_id


def test_other_content_of_the_same_version_gets_a_name_of_its_own(
    kfp: Kfp, connected: Kubeflow, version: Version, pipeline: CompiledPipeline, tmp_path: Path
) -> None:
    other = changed(pipeline, tmp_path, "16Gi")
    first, again = connected.upload(other), connected.upload(other)
    assert first.name == f"attribution-audit-0-1-0-{other.digest[:8]}"
    assert (first.new, again.new) == (True, False)
    assert first.pipeline_id == version.pipeline_id
    assert {each["name"] for each in kfp.versions.values()} == {version.name, first.name}
    assert connected.upload(pipeline) == Version(version.pipeline_id, version.version_id, version.name, new=False)


def test_a_version_whose_name_lies_is_not_taken(
    kfp: Kfp, connected: Kubeflow, version: Version, pipeline: CompiledPipeline, tmp_path: Path
) -> None:
    other = changed(pipeline, tmp_path, "16Gi")
    liar = connected.upload(other)
    kfp.versions[liar.version_id] |= {"description": "", "pipeline_spec": {}}
    with pytest.raises(EnvironmentProblem, match="another content than its name says"):
        connected.upload(other)


def test_a_run_refers_to_the_version_and_names_its_account(kfp: Kfp, connected: Kubeflow, version: Version) -> None:
    parameters = {"queries_prompts": ["a seven"], "retrain_enabled": True, "overrides": {"report.top": 5}}
    run_id = connected.start(version, "mine", parameters, "audits", "unsee-runner")
    run = kfp.runs[run_id]
    assert run["pipeline_version_reference"] == {
        "pipeline_id": version.pipeline_id,
        "pipeline_version_id": version.version_id,
    }
    assert run["runtime_config"] == {"parameters": parameters}
    assert run["service_account"] == "unsee-runner"
    assert kfp.experiments[run["experiment_id"]]["display_name"] == "audits"
    connected.start(version, "again", {}, "audits", None)
    assert len(kfp.experiments) == 1
    assert connected.page(run_id) == f"{kfp.url}/#/runs/details/{run_id}"


def test_a_parameter_of_another_type_is_refused_with_the_servers_words(connected: Kubeflow, version: Version) -> None:
    with pytest.raises(InputError, match="400: input parameter seed has the wrong type: 'seven'"):
        connected.start(version, "mine", {"seed": "seven"}, "audits", None)


def test_a_run_is_waited_for(kfp: Kfp, connected: Kubeflow, version: Version) -> None:
    states = list(connected.wait(connected.start(version, "mine", {}, "audits", None)))
    assert [state.state for state in states] == [state for state, _ in SUCCESS]
    assert [state.ended for state in states] == [False] * (len(SUCCESS) - 1) + [True]
    assert states[-1].succeeded
    tasks = {task.name for state in states for task in state.tasks if not task.machinery}
    assert tasks == {"plan", "score", "gather"}


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SKIPPED"])
def test_a_run_that_ends_otherwise_has_not_succeeded(
    kfp: Kfp, connected: Kubeflow, version: Version, state: str
) -> None:
    kfp.story = [("RUNNING", {}), (state, {})]
    *_, last = connected.wait(connected.start(version, "mine", {}, "audits", None))
    assert last.ended
    assert not last.succeeded


def test_a_server_that_is_away_for_a_while_is_waited_for(
    kfp: Kfp, connected: Kubeflow, version: Version, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = connected.start(version, "mine", {}, "audits", None)
    # More than the client itself asks again for.
    kfp.failing = 4
    with caplog.at_level(logging.WARNING, "unsee"):
        *_, last = connected.wait(run_id)
    assert last.succeeded
    (warning,) = caplog.messages
    assert "503: upstream connect error" in warning
    monkeypatch.setattr(kubeflow, "PATIENCE_SECONDS", 0.0)
    kfp.failing = 1000
    with pytest.raises(Unanswered, match="503"):
        list(connected.wait(run_id))


def test_waiting_has_an_end(kfp: Kfp, connected: Kubeflow, version: Version) -> None:
    kfp.story = [("RUNNING", {})]
    with pytest.raises(EnvironmentProblem, match=r"has not ended after 0 s"):
        list(connected.wait(connected.start(version, "mine", {}, "audits", None), seconds=0.1))


def test_a_run_that_is_not_there(connected: Kubeflow) -> None:
    with pytest.raises(InputError, match="there is no run 'nowhere'"):
        connected.run("nowhere")


def test_scheduling_the_same_twice_does_nothing(kfp: Kfp, connected: Kubeflow, version: Version) -> None:
    given = ("weekly", "0 0 3 * * 1", version, {"run_shards": 8}, "audits", "unsee-runner")
    assert connected.schedule(*given) == "created"
    before = dict(kfp.recurring_runs)
    assert connected.schedule(*given) == "unchanged"
    assert kfp.recurring_runs == before
    (made,) = before.values()
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert made["runtime_config"] == {"parameters": {"run_shards": 8}}
    assert made["pipeline_version_reference"]["pipeline_version_id"] == version.version_id
    assert (made["mode"], made["max_concurrency"], made["no_catchup"]) == ("ENABLE", "1", True)
    made["status"] = "DISABLED"
    assert connected.schedule(*given) == "unchanged, but paused there"


@pytest.mark.parametrize(
    "difference",
    [{"cron": "0 0 4 * * 1"}, {"parameters": {"run_shards": 9}}, {"experiment": "other"}, {"service_account": None}],
)
def test_scheduling_something_else_replaces(
    kfp: Kfp, connected: Kubeflow, version: Version, difference: dict[str, object]
) -> None:
    given = {"cron": "0 0 3 * * 1", "parameters": {}, "experiment": "audits", "service_account": "unsee-runner"}
    connected.schedule("weekly", version=version, **given)  # type: ignore[arg-type]
    connected.schedule("other", version=version, **given)  # type: ignore[arg-type]
    assert connected.schedule("weekly", version=version, **{**given, **difference}) == "replaced"  # type: ignore[arg-type]
    assert sorted(each["display_name"] for each in kfp.recurring_runs.values()) == ["other", "weekly"]
    assert connected.schedule("weekly", version=version, **{**given, **difference}) == "unchanged"  # type: ignore[arg-type]


def test_a_schedule_that_is_refused_leaves_the_one_before_it(kfp: Kfp, connected: Kubeflow, version: Version) -> None:
    connected.schedule("weekly", "0 0 3 * * 1", version, {}, "audits", None)
    before = dict(kfp.recurring_runs)
    with pytest.raises(InputError, match="not a supported format"):
        connected.schedule("weekly", "0 0 3 * * monday-ish", version, {}, "audits", None)
    assert kfp.recurring_runs == before


def test_what_was_left_behind_between_two_requests_is_cleared_away(
    kfp: Kfp, connected: Kubeflow, version: Version
) -> None:
    connected.schedule("weekly", "0 0 3 * * 1", version, {}, "audits", None)
    (old,) = kfp.recurring_runs.values()
    connected.schedule("weekly", "0 0 4 * * 1", version, {}, "audits", None)
    kfp.recurring_runs[old["recurring_run_id"]] = old
    assert connected.schedule("weekly", "0 0 4 * * 1", version, {}, "audits", None) == "unchanged"
    (left,) = kfp.recurring_runs.values()
    assert left["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * 1"


def test_what_somebody_else_scheduled_is_not_touched(kfp: Kfp, connected: Kubeflow, version: Version) -> None:
    connected.schedule("weekly", "0 0 3 * * 1", version, {}, "audits", None)
    (theirs,) = kfp.recurring_runs.values()
    theirs["description"] = "made by hand"
    with pytest.raises(InputError, match="was not made by"):
        connected.schedule("weekly", "0 0 4 * * 1", version, {}, "audits", None)
    with pytest.raises(InputError, match="was not made by"):
        connected.unschedule("weekly")
    assert list(kfp.recurring_runs.values()) == [theirs]


def test_unscheduling(kfp: Kfp, connected: Kubeflow, version: Version) -> None:
    connected.schedule("weekly", "0 0 3 * * 1", version, {}, "audits", None)
    assert connected.unschedule("weekly") == 1
    assert connected.unschedule("weekly") == 0
    assert kfp.recurring_runs == {}


def test_where_everybody_has_a_namespace_it_goes_with_everything(
    tmp_path: Path, pipeline: CompiledPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kfp_server(multi_user=True) as kfp:
        with pytest.raises(InputError, match="UNSEE_KFP_NAMESPACE"):
            Kubeflow.connect(Access(kfp.url))
        connected = Kubeflow.connect(Access(kfp.url, namespace="team-a"))
        version = connected.upload(pipeline)
        assert not connected.upload(pipeline).new
        connected.start(version, "mine", {}, "audits", None)
        connected.schedule("weekly", "0 0 3 * * 1", version, {}, "audits", None)
        for kept in (kfp.pipelines, kfp.experiments, kfp.recurring_runs):
            assert [each["namespace"] for each in kept.values()] == ["team-a"]
        # Inside of a pod nobody has to say it.
        (tmp_path / "namespace").write_text("team-b")
        monkeypatch.setattr(kubeflow_client, "NAMESPACE_FILE", tmp_path / "namespace")
        assert Kubeflow.connect(Access(kfp.url)).namespace == "team-b"


def test_where_nobody_has_a_namespace_none_is_sent(kfp: Kfp, pipeline: CompiledPipeline) -> None:
    connected = Kubeflow.connect(Access(kfp.url, TOKEN, namespace="team-a"))
    connected.start(connected.upload(pipeline), "mine", {}, "audits", None)
    assert all("namespace" not in each for each in (*kfp.pipelines.values(), *kfp.experiments.values()))


@pytest.mark.parametrize("token", [None, "another-token"])
def test_a_token_that_is_missing_or_wrong(kfp: Kfp, token: str | None) -> None:
    with pytest.raises(EnvironmentProblem, match=r"401.*UNSEE_KFP_TOKEN or --token-file") as caught:
        Kubeflow.connect(Access(kfp.url, token))
    assert "another-token" not in str(caught.value)


def test_the_token_of_a_file_is_read_anew(kfp: Kfp, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    connected = Kubeflow.connect(Access(kfp.url, token_file=path))
    kfp.token = "the-next-one"
    path.write_text("the-next-one\n")
    with pytest.raises(InputError, match="there is no run"):
        connected.run("nowhere")
    assert kfp.authorizations == [f"Bearer {TOKEN}", "Bearer the-next-one"]


def test_no_token_is_shown(kfp: Kfp, tmp_path: Path) -> None:
    assert TOKEN not in repr(Access(kfp.url, TOKEN))
    broken = f"{TOKEN}\nand-a-second-line"
    (tmp_path / "token").write_text(broken)
    for access in (Access(kfp.url, broken), Access(kfp.url, token_file=tmp_path / "token"), Access(kfp.url, "")):
        with pytest.raises(InputError, match="characters that no token has") as caught:
            Kubeflow.connect(access)
        assert "eyJ" not in str(caught.value)
    # The server of these tests repeats what it was shown.
    kfp.token = "another"
    with pytest.raises(EnvironmentProblem, match=r"no user behind Bearer \*\*\*"):
        Kubeflow.connect(Access(kfp.url, TOKEN))


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_token_file_that_is_none(kfp: Kfp, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(InputError, match="file with a token"):
        Kubeflow.connect(Access(kfp.url, token_file=tmp_path / "token"))


def test_a_pod_needs_to_be_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(kubeflow_client, "TOKEN_FILE", tmp_path / "token")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    settings = settings_of(Access())
    assert settings["host"] == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
    assert type(settings["credentials"]).__name__ == "ServiceAccountTokenVolumeCredentials"


def test_through_the_cluster_of_the_kubeconfig(kfp: Kfp, tmp_path: Path) -> None:
    """The Kubernetes API passes requests on to a service; the tests' server does not, and says so."""
    config = tmp_path / "kubeconfig"
    config.write_text(
        "{apiVersion: v1, kind: Config, current-context: it, users: [{name: me, user: {token: hers}}], "
        f"clusters: [{{name: it, cluster: {{server: '{kfp.url}'}}}}], "
        "contexts: [{name: it, context: {cluster: it, user: me}}]}"
    )
    program = (
        "from unsee.platform.kubeflow import Kubeflow\nfrom unsee.platform.kubeflow_client import Access\n"
        "Kubeflow.connect(Access())"
    )
    environment = {**os.environ, "KUBECONFIG": str(config)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert kfp.requests == ["GET /api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/apis/v2beta1/healthz"]
    assert kfp.authorizations == ["Bearer hers"]
    assert "401" in done.stderr
    assert "hers" not in done.stderr


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (Access(), "no kubeconfig"),
        (Access("kubeflow.example.org"), "is no address"),
        (Access("ftp://kubeflow.example.org"), "is no address"),
        (Access("https://kubeflow.example.org", ca_bundle=Path("nowhere.pem")), "nowhere.pem"),
    ],
)
def test_settings_that_cannot_be_used(access: Access, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Kubeflow.connect(access)


def test_an_address_is_shown_without_what_is_secret_in_it(kfp: Kfp) -> None:
    host = kfp.url.replace("//", "//me:my-password@")
    with pytest.raises(UnseeError) as caught:
        Kubeflow.connect(Access(host))
    assert "my-password" not in str(caught.value)


def test_a_host_that_nobody_listens_on() -> None:
    (port,) = free_ports(1)
    start = time.monotonic()
    with pytest.raises(Unanswered, match=r"cannot be reached.*--host, UNSEE_KFP_HOST"):
        Kubeflow.connect(Access(f"http://127.0.0.1:{port}"))
    assert time.monotonic() - start < 5


def test_a_host_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeflow, "TIMEOUT", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(Unanswered, match="cannot be reached"):
            Kubeflow.connect(Access(f"http://127.0.0.1:{silent.getsockname()[1]}"))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("status", "message"), [(200, "does not answer as Kubeflow Pipelines does"), (302, "as a login page does")]
)
def test_something_else_that_answers(status: int, message: str) -> None:
    class Login(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "/dex/auth")
            self.send_header("Content-Length", "15")
            self.end_headers()
            self.wfile.write(b"<html> </html>\n")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Login)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        with pytest.raises(EnvironmentProblem, match=message):
            Kubeflow.connect(Access(f"http://127.0.0.1:{server.server_address[1]}"))
    finally:
        server.shutdown()
        server.server_close()


def test_another_path_of_the_server(kfp: Kfp) -> None:
    with pytest.raises(EnvironmentProblem, match=r"404.*often it ends in /pipeline"):
        Kubeflow.connect(Access(f"{kfp.url}/elsewhere", TOKEN))


def test_a_certificate_is_checked_with_the_bundle_that_is_named(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with kfp_server(certificate, token=TOKEN) as kfp:
        with pytest.raises(EnvironmentProblem, match="--ca-bundle or UNSEE_KFP_CA_BUNDLE"):
            Kubeflow.connect(Access(kfp.url, TOKEN))
        connected = Kubeflow.connect(Access(kfp.url, TOKEN, ca_bundle=certificate[0]))
        with pytest.raises(InputError, match="there is no run"):
            connected.run("nowhere")


def test_connecting_asks_once_and_leaves_nothing_at_home(kfp: Kfp, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom unsee.platform.kubeflow import Kubeflow\nfrom unsee.platform.kubeflow_client import Access\n"
        "Kubeflow.connect(Access(sys.argv[1], sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, kfp.url, TOKEN]
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(command, env={**os.environ, "HOME": str(home)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert kfp.requests == ["GET /healthz"]
    assert list(home.iterdir()) == []


def test_without_kfp_the_message_says_how_to_install_it() -> None:
    program = (
        "import sys; sys.modules['kfp.client'] = None\n"
        "from unsee.platform.kubeflow import Kubeflow\nfrom unsee.platform.kubeflow_client import Access\n"
        "Kubeflow.connect(Access('http://127.0.0.1:9'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "EnvironmentProblem: kfp is not installed" in done.stderr
    assert "pip install 'unsee[pipelines]'" in done.stderr


def test_the_failed_task_of_a_run(kfp: Kfp, connected: Kubeflow, version: Version) -> None:
    kfp.story = FAILURE
    *_, last = connected.wait(connected.start(version, "mine", {}, "audits", None))
    assert [task.name for task in last.tasks if task.state == "FAILED" and not task.machinery] == ["plan"]
