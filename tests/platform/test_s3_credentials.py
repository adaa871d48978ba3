"""Who is asking: every source in turn, and no secret in what is told."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from servers import S3Server, seaweedfs
from unsee.errors import EnvironmentProblem
from unsee.params import load_params
from unsee.platform.object_store import open_store
from unsee.platform.s3_credentials import Chain

pytestmark = pytest.mark.usefixtures("no_credentials")
ROLE = "arn:aws:iam::role/unsee"


def chain() -> Chain:
    return Chain(certifi.where(), "us-east-1")


def write_file(home: Path, text: str) -> None:
    (home / ".aws").mkdir(parents=True, exist_ok=True)
    (home / ".aws" / "credentials").write_text(text)


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_file(tmp_path / "home", "[default]\naws_access_key_id = file\naws_secret_access_key = s\n")
    found = chain().retrieve()
    assert (found.access_key, found.secret_key, found.session_token) == ("file", "s", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "t")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    found = chain().retrieve()
    assert (found.access_key, found.secret_key, found.session_token) == ("environment", "t", "session")


def test_a_profile_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_file(tmp_path / "home", "[audit]\naws_access_key_id = a\naws_secret_access_key = b\n")
    with pytest.raises(EnvironmentProblem, match="none were found"):
        chain().retrieve()
    monkeypatch.setenv("AWS_PROFILE", "audit")
    assert chain().retrieve().access_key == "a"


def test_nothing_set_up_is_told_with_what_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "home", "[default]\nthis-line-is = fine\nhunter2-a-secret-without-a-name\n")
    with pytest.raises(EnvironmentProblem) as caught:
        chain().retrieve()
    assert "environment: nothing there; credentials file: ParsingError" in str(caught.value)
    assert "AWS_ACCESS_KEY_ID" in caught.value.remedy
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(EnvironmentProblem, match="web identity: No such file or directory"):
        chain().retrieve()


def test_a_machine_that_says_nothing_of_a_role_does_not_keep_one_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}/role")
        start = time.monotonic()
        with pytest.raises(EnvironmentProblem, match="role of the machine: ReadTimeoutError"):
            chain().retrieve()
        assert time.monotonic() - start < 5


def test_a_pod_that_is_given_a_role(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Amazon's container services serve at an address of their own."""
    given = {"AccessKeyId": "k", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}
    with serving({"/role": given}) as url:
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/role")
        found = chain().retrieve()
    assert (found.access_key, found.secret_key, found.session_token) == ("k", "s", "t")


@contextlib.contextmanager
def serving(pages: dict[str, Any]) -> Iterator[str]:
    """A server of JSON pages; `pages` may be filled while it runs."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = json.dumps(pages.get(self.path)).encode()
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Issuer:
    """Signs tokens as a cluster signs those of its service accounts."""

    def __init__(self, url: str, pages: dict[str, Any]) -> None:
        self.url = url
        self.key = rsa.generate_private_key(65537, 2048)
        numbers = self.key.public_key().public_numbers()
        modulus, exponent = (encoded(n.to_bytes((n.bit_length() + 7) // 8, "big")) for n in (numbers.n, numbers.e))
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k", "n": modulus, "e": exponent}
        pages["/.well-known/openid-configuration"] = {"issuer": url, "jwks_uri": f"{url}/jwks"}
        pages["/jwks"] = {"keys": [key]}

    def token(self, audience: str = "unsee") -> str:
        now = int(time.time())
        who = {"iss": self.url, "sub": "system:serviceaccount:audits:unsee-runner", "aud": audience}
        parts = [{"alg": "RS256", "kid": "k", "typ": "JWT"}, {**who, "iat": now, "exp": now + 600}]
        text = ".".join(encoded(json.dumps(part).encode()) for part in parts)
        return f"{text}.{encoded(self.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
def federated(tmp_path: Path) -> Iterator[tuple[S3Server, Issuer]]:
    """SeaweedFS that trusts the issuer's tokens: the role `unsee` may do everything below unsee/cache."""
    pages: dict[str, Any] = {}
    with serving(pages) as url:
        issuer = Issuer(url, pages)
        everything = ["arn:aws:s3:::unsee", "arn:aws:s3:::unsee/cache/*"]
        trusted = {
            "Effect": "Allow",
            "Principal": {"Federated": "cluster"},
            "Action": ["sts:AssumeRoleWithWebIdentity"],
        }
        allowed = {"Effect": "Allow", "Action": ["s3:*"], "Resource": everything}
        provider = {"issuer": url, "clientId": "unsee", "jwksUri": f"{url}/jwks"}
        signing = base64.b64encode(os.urandom(32)).decode()
        config = {
            "sts": {"tokenDuration": "1h", "maxSessionLength": "12h", "issuer": "seaweedfs", "signingKey": signing},
            "providers": [{"name": "cluster", "type": "oidc", "enabled": True, "config": provider}],
            "policy": {"defaultEffect": "Deny", "storeType": "memory"},
            "policies": [{"name": "unsee", "document": {"Version": "2012-10-17", "Statement": [allowed]}}],
            "roles": [
                {
                    "roleName": "unsee",
                    "roleArn": ROLE,
                    "trustPolicy": {"Version": "2012-10-17", "Statement": [trusted]},
                    "attachedPolicies": ["unsee"],
                }
            ],
        }
        (tmp_path / "iam.json").write_text(json.dumps(config))
        with seaweedfs(tmp_path / "server", f"-s3.iam.config={tmp_path / 'iam.json'}") as server:
            yield server, issuer


def test_a_web_identity_is_changed_into_credentials(
    federated: tuple[S3Server, Issuer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, issuer = federated
    token = tmp_path / "token"
    token.write_text(issuer.token() + "\n")
    monkeypatch.setenv("UNSEE_STORE_ENDPOINT", server.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    with caplog.at_level(logging.DEBUG):
        store = open_store("s3://unsee/cache", load_params().store)
        store.put("k", b"data")
        assert store.get("k") == b"data"
        with pytest.raises(EnvironmentProblem, match=r"access is denied.*must allow ListBucket"):
            open_store("s3://unsee/elsewhere", load_params().store).put("k", b"data")

        token.write_text(issuer.token(audience="somebody else"))
        with pytest.raises(EnvironmentProblem, match=r"web identity: HTTP status 4\d\d") as caught:
            open_store("s3://unsee/cache", load_params().store).get("k")
    assert store.get("k") == b"data", "credentials that are there are used until they expire"
    for secret in (token.read_text(), token.read_text().split(".")[-1]):
        assert secret not in str(caught.value)
        assert secret not in caplog.text
