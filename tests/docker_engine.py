"""Docker Engine, and the image under test, for tests: a pytest plugin that conftest.py loads.

An engine that answers is used, and keeps what it has built. Where none answers and the tests run as root, `dockerd` is
started once for the whole run, its workers included, on a socket and a data folder of its own, and ended with the run.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent
IMAGE = "unsee-python-cpu:under-test"
LOCKED_DOWN = (
    "--rm",
    "--read-only",
    "--tmpfs=/tmp",
    "--tmpfs=/home/unsee",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=none",
)
"""How the manifests run a step's container, and without a network besides."""

_FOLDER = "UNSEE_TEST_DOCKER"
_BUILD_SECONDS = 1800
_STOP_SECONDS = 30


@dataclass(frozen=True)
class Engine:
    """A Docker Engine that answers.

    Attributes:
        host: its address, for DOCKER_HOST.
        client: the docker client.
    """

    host: str
    client: str

    def docker(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run the client; the exit code is asserted unless it is None."""
        done = subprocess.run(
            [self.client, *arguments], env=self.environment(), capture_output=True, text=True, check=False
        )
        assert code is None or done.returncode == code, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done

    def run(
        self,
        image: str,
        *command: str,
        mounts: Mapping[Path, str] | None = None,
        options: tuple[str, ...] = (),
        code: int | None = 0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a container that is locked down; `mounts` are read-only."""
        volumes = [f"--volume={source}:{target}:ro" for source, target in (mounts or {}).items()]
        return self.docker("run", *LOCKED_DOWN, *volumes, *options, image, *command, code=code)

    def build(self, tag: str, target: str = "runtime") -> None:
        """Build the cpu image, once in a run, on a base made of Debian's packages where that can be made."""
        local = os.geteuid() == 0 and shutil.which("debootstrap") is not None
        command = [sys.executable, str(ROOT / "scripts" / "containers.py"), "image", "cpu"]
        command += [f"--tag={tag}", f"--target={target}", *(["--local-base"] if local else [])]
        with FileLock(_folder() / "build.lock"):
            built = _folder() / f"built-{target}"
            if built.exists():
                return
            done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-5000:]
            built.touch()

    def environment(self) -> dict[str, str]:
        """This process's, with the engine's address."""
        return {**os.environ, "DOCKER_HOST": self.host}


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Docker Engine; skips where there is none and none can be started."""
    client = shutil.which("docker")
    if client is None:
        pytest.skip("docker is not installed")
    given = Engine(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"), client)
    if _answers(given):
        return given
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("no Docker Engine answers, and starting one needs dockerd and root")
    own = Engine(f"unix://{_folder() / 'docker.sock'}", client)
    with FileLock(_folder() / "start.lock"):
        if not _answers(own):
            _start(own)
    return own


@pytest.fixture(scope="session")
def cpu_image(engine: Engine) -> str:
    """Tag of the cpu image, built from the working tree."""
    engine.build(IMAGE)
    return IMAGE


def pytest_configure(config: pytest.Config) -> None:
    """Choose the folder of this run's engine, which is made when it is needed; workers inherit the choice."""
    if not hasattr(config, "workerinput"):
        os.environ[_FOLDER] = str(Path(tempfile.gettempdir()) / f"unsee-docker-{secrets.token_hex(8)}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End this run's engine, when the workers are done, and remove what it wrote."""
    if hasattr(config, "workerinput") or _FOLDER not in os.environ:
        return
    folder = Path(os.environ.pop(_FOLDER))
    if not folder.exists():
        return
    _stop(folder)
    shutil.rmtree(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that uses the image waits for its build."""
    for item in items:
        if "cpu_image" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_BUILD_SECONDS))


def _folder() -> Path:
    folder = Path(os.environ[_FOLDER])
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _answers(engine: Engine) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        command = [engine.client, "version", "--format={{.Server.Version}}"]
        done = subprocess.run(command, env=engine.environment(), capture_output=True, timeout=20, check=False)
        return done.returncode == 0
    return False


def _start(engine: Engine) -> None:
    folder = _folder()
    # Without a bridge and rules for the firewall it leaves the machine's network alone.
    command = ["dockerd", f"--host={engine.host}", f"--pidfile={folder / 'docker.pid'}", "--bridge=none"]
    command += [f"--data-root={folder / 'data'}", f"--exec-root={folder / 'exec'}"]
    command += ["--iptables=false", "--ip6tables=false"]
    with (folder / "log").open("w") as log:
        # In a session of its own, so that an interrupt at the keyboard does not end it before its containers.
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    for _ in range(120):
        if _answers(engine):
            process.returncode = 0  # it outlives this worker, and is ended by the run
            return
        if process.poll() is not None:
            break
        time.sleep(0.5)
    process.kill()
    raise RuntimeError(f"dockerd does not start: {(folder / 'log').read_text()[-3000:]}")


def _stop(folder: Path) -> None:
    pidfile = folder / "docker.pid"
    if not pidfile.exists():
        return
    pid = int(pidfile.read_text())
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            # The number may have become another process's.
            if str(folder) in Path(f"/proc/{pid}/cmdline").read_text():
                _end(handle)
        finally:
            os.close(handle)


def _end(handle: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal.pidfd_send_signal(handle, number)
        if select.select([handle], [], [], _STOP_SECONDS)[0]:
            return
