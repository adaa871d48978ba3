"""S3 on a real server: large objects, damage, refusals, networks that fail, TLS, and who is asking."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from certificates import make_certificate
from faulty import Fault, faulty
from servers import S3Server, free_ports, seaweedfs
from unsee.cache import ContentCache, DamagedObject
from unsee.doctor import examine
from unsee.errors import EnvironmentProblem, UnseeError
from unsee.params import StoreParams, load_params
from unsee.platform.object_store import ObjectStore, open_store, try_store
from unsee.platform.s3_settings import resolve
from unsee.platform.s3_store import S3Store

PART = 5 << 20


def settings(**changed: Any) -> StoreParams:
    return load_params(None, {f"store.{key}": value for key, value in changed.items()}).store


def store_of(prefix: str, bucket: str = "unsee", **changed: Any) -> ObjectStore:
    return open_store(f"s3://{bucket}/{prefix}", settings(**changed))


def raw(server: S3Server) -> Minio:
    """Behind the store's back."""
    return Minio(server.endpoint, server.key, server.secret, secure=False, region="us-east-1")


def test_a_large_object_goes_in_parts(s3: S3Server, tmp_path: Path) -> None:
    store = S3Store(resolve(settings()), s3.bucket, "parts", part_bytes=PART)
    data = os.urandom(2 * PART + 12345)
    (tmp_path / "in").write_bytes(data)
    store.put_file("file", tmp_path / "in")
    store.put("bytes", data)
    for key in ("file", "bytes"):
        etag = raw(s3).stat_object(s3.bucket, f"parts/{key}").etag
        assert etag is not None
        assert etag.endswith("-3"), "three parts"
        assert store.get(key) == data
        assert store.get_file(key, tmp_path / key)
        assert (tmp_path / key).read_bytes() == data


def test_bytes_changed_behind_our_back_are_not_given(s3: S3Server, tmp_path: Path) -> None:
    store = store_of("changed")
    store.put("k", b"right")
    stored = store.stat("k")
    assert stored is not None
    raw(s3).put_object(s3.bucket, "changed/k", io.BytesIO(b"wrong"), 5, metadata={"sha256": str(stored.sha256)})
    with pytest.raises(DamagedObject, match=r"s3://unsee/changed/k: is damaged: it does not match its sha256"):
        store.get("k")
    with pytest.raises(DamagedObject):
        store.get_file("k", tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == []
    assert store.exists("k"), "what is no cache entry is left for a person to look at"


def test_an_object_of_somebody_else_is_read(s3: S3Server) -> None:
    raw(s3).put_object(s3.bucket, "theirs/k", io.BytesIO(b"data"), 4)
    raw(s3).put_object(s3.bucket, "theirs/.hidden", io.BytesIO(b"data"), 4)
    assert store_of("theirs").keys("") == ["k"]
    assert store_of("theirs").get("k") == b"data"


@pytest.mark.slow
def test_a_disk_that_lost_a_bit_costs_one_entry(
    tmp_path: Path, no_credentials: None, monkeypatch: Any, caplog: Any
) -> None:
    with seaweedfs(tmp_path / "server") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = S3Store(resolve(settings()), server.bucket, "", attempts=1)
        cache = ContentCache(store)
        bodies = [os.urandom(3000), os.urandom(3000)]
        for number, body in enumerate(bodies):
            cache.write("place", f"n{number}", body, ".bin")
        flip_on_disk(server.folder, bodies[0])
        with caplog.at_level(logging.WARNING):
            assert list(cache.read_all("place", ".bin")) == bodies[1:]
        assert "cannot read it" in caplog.text
        cache.write("place", "n0", bodies[0], ".bin")
        assert list(cache.read_all("place", ".bin")) == bodies


def flip_on_disk(folder: Path, body: bytes) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for path in folder.glob("*.dat"):
            start = path.read_bytes().find(body)
            if start >= 0:
                with path.open("r+b") as file:
                    file.seek(start + 100)
                    file.write(bytes([body[100] ^ 1]))
                return
        time.sleep(0.1)
    pytest.fail("the object is not on the disk")


# What a person set up wrongly.


@pytest.mark.parametrize("wrong", [{"AWS_SECRET_ACCESS_KEY": "not-this-one"}, {"AWS_ACCESS_KEY_ID": "nobody-here"}])
def test_wrong_credentials_are_said_and_not_shown(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: dict[str, str]
) -> None:
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    store = store_of("denied")
    with caplog.at_level(logging.DEBUG):
        for call in (
            lambda: store.keys(""),
            lambda: store.get("k"),
            lambda: store.put("k", b"x"),
            lambda: store.stat("k"),
        ):
            with pytest.raises(EnvironmentProblem, match="access is denied") as caught:
                call()
            assert caught.value.field == "S3 credentials"
            assert "AWS_ACCESS_KEY_ID" in caught.value.remedy
            assert not any(secret in str(caught.value) for secret in (s3.secret, s3.key, *wrong.values()))
    assert not any(secret in caplog.text for secret in (s3.secret, *wrong.values()))


def test_a_missing_bucket_is_named(s3: S3Server) -> None:
    store = store_of("x", bucket="not-there")
    for call in (lambda: store.keys(""), lambda: store.get("k"), lambda: store.put("k", b"x")):
        with pytest.raises(EnvironmentProblem, match=r"bucket: there is no bucket 'not-there'\. Create it"):
            call()


def test_an_endpoint_where_nobody_listens_costs_seconds(s3: S3Server) -> None:
    (port,) = free_ports(1)
    start = time.monotonic()
    with pytest.raises(EnvironmentProblem, match="cannot be reached") as caught:
        store_of("x", endpoint=f"http://127.0.0.1:{port}").get("k")
    assert time.monotonic() - start < 8
    assert caught.value.file == f"http://127.0.0.1:{port}"
    assert caught.value.field == "store.endpoint"
    assert "UNSEE_STORE_ENDPOINT" in caught.value.remedy


def test_a_server_that_is_no_s3_is_told_so(s3: S3Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = mute.accept()
                    connection.recv(65536)
                    connection.sendall(
                        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"
                    )
                    connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(
            EnvironmentProblem, match="answers with HTTP status 404, and not as an S3 server does"
        ) as caught:
            store_of("x", endpoint=f"http://127.0.0.1:{mute.getsockname()[1]}").get("k")
        mute.close()
    assert caught.value.field == "store.endpoint"


# Networks that fail.


class Plan:
    """The first requests that a rule picks get a fault each."""

    def __init__(self, kinds: list[str], method: str, part: str = "") -> None:
        self.left, self.method, self.part = list(kinds), method, part
        self.seen: list[str] = []

    def __call__(self, method: str, path: str) -> str | None:
        self.seen.append(f"{method} {path}")
        if self.left and method == self.method and self.part in path:
            return self.left.pop(0)
        return None


@contextlib.contextmanager
def behind(server: S3Server, fault: Fault, prefix: str) -> Iterator[S3Store]:
    with faulty(server.endpoint, fault) as endpoint:
        yield S3Store(resolve(settings(endpoint=f"http://{endpoint}")), server.bucket, prefix, part_bytes=PART)


@pytest.mark.parametrize("kind", ["busy", "dropped", "lost"])
@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
def test_what_fails_in_passing_is_tried_again(s3: S3Server, kind: str, method: str) -> None:
    plan = Plan([kind], method)
    with behind(s3, plan, f"passing-{kind}-{method}") as store:
        store.put("k", b"data")
        assert store.stat("k") is not None
        assert store.get("k") == b"data"
        assert store.keys("") == ["k"]
        store.delete("k")
        assert store.get("k") is None
    assert plan.left == []


def test_an_answer_that_breaks_off_is_read_again(s3: S3Server, tmp_path: Path) -> None:
    data = os.urandom(2 << 20)
    with behind(s3, Plan(["cut"] * 2, "GET", "/k"), "cut") as store:
        store.put("k", data)
        assert store.get("k") == data
    with behind(s3, Plan(["cut"], "GET", "/k"), "cut") as store:
        assert store.get_file("k", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == data
    always = Plan(["cut"] * 99, "GET", "/k")
    with behind(s3, always, "cut") as store, pytest.raises(EnvironmentProblem, match="cannot be reached"):
        store.get_file("k", tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("kinds", "method", "part"),
    [
        (["busy"], "POST", "uploads="),
        (["dropped"], "PUT", "partNumber=2"),
        (["lost"], "POST", "uploadId="),
        (["lost", "gone"], "POST", "uploadId="),
    ],
)
def test_a_large_upload_survives_the_loss_of_any_request(
    s3: S3Server, kinds: list[str], method: str, part: str
) -> None:
    data = os.urandom(2 * PART + 1)
    plan = Plan(kinds, method, part)
    with behind(s3, plan, f"upload-{'-'.join(kinds)}-{method}") as store:
        store.put("k", data)
        assert store.get("k") == data
    assert plan.left == []


def test_a_server_that_stays_busy_is_given_up_after_four_tries(s3: S3Server) -> None:
    plan = Plan(["busy"] * 99, "PUT")
    start = time.monotonic()
    with behind(s3, plan, "busy") as store, pytest.raises(EnvironmentProblem, match="answers with HTTP status 503"):
        store.put("k", b"data")
    assert len(plan.seen) == 4
    assert time.monotonic() - start < 10


# Addresses.


def test_the_bucket_stands_in_the_path_or_in_the_host(
    tmp_path: Path, no_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = socket.getaddrinfo
    asked: list[str] = []

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        return found("127.0.0.1" if str(host).endswith("s3.test") else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with seaweedfs(tmp_path / "server", "-s3.domainName=s3.test") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        endpoint = f"http://s3.test:{server.endpoint.split(':')[1]}"
        store_of("style", endpoint=endpoint, path_style=True).put("k", b"1")
        assert asked[-1] == "s3.test"
        assert store_of("style", endpoint=endpoint, path_style=False).get("k") == b"1"
        assert asked[-1] == "unsee.s3.test"
        monkeypatch.setenv("UNSEE_STORE_PATH_STYLE", "false")
        store_of("style", endpoint=endpoint).put("other", b"2")
        assert asked[-1] == "unsee.s3.test"


def test_tls_is_checked_with_the_bundle_that_is_named(
    tmp_path: Path, no_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    with seaweedfs(tmp_path / "server", certificate=certificate) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        assert server.url.startswith("https://")
        with pytest.raises(EnvironmentProblem, match="certificate verify failed") as caught:
            store_of("tls").put("k", b"1")
        assert caught.value.field == "store.ca_bundle"
        bundle = str(certificate[0])
        data = os.urandom(PART + 1)
        store = S3Store(resolve(settings(ca_bundle=bundle)), server.bucket, "tls", part_bytes=PART)
        store.put("k", data)
        assert store.get("k") == data
        monkeypatch.setenv("UNSEE_STORE_CA_BUNDLE", bundle)
        assert store_of("tls", endpoint=server.endpoint, secure=True).get("k") == data
        with pytest.raises(UnseeError) as refused:
            store_of("tls", endpoint=server.endpoint, secure=False).get("k")
        assert "store.secure" in str(refused.value)


def test_the_doctor_tries_the_store(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(None, {"run.cache": "s3://unsee/doctor"})
    found = {finding.name: finding for finding in examine(params, try_store)}
    assert found["cache store"].state == "ok"
    assert found["cache folder"].state == "ok", "downloads have a place on this machine"
    assert store_of("doctor").keys("") == []
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-this-one")
    found = {finding.name: finding for finding in examine(params, try_store)}
    assert found["cache store"].state == "missing"
    assert "access is denied (SignatureDoesNotMatch)" in found["cache store"].detail
    assert "AWS_ACCESS_KEY_ID" in found["cache store"].remedy
