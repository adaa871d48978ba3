"""scripts/containers.py: which docker it takes, and what a build is told about packages."""

from __future__ import annotations

import configparser
import http.client
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("containers_script", ROOT / "scripts" / "containers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_settings_are_read_and_the_environment_wins(script: ModuleType) -> None:
    listed = (
        "global.extra-index-url='\\nfile:///one\\nfile:///two'\n"
        ":env:.find-links='/wheels'\n"
        "global.find-links='/other'\n"
        "install.retries='2'\n"
        "download.timeout='9'\n"
    )
    settings = script.parse_settings(listed)
    assert settings["extra-index-url"].split() == ["file:///one", "file:///two"]
    assert settings["find-links"] == "/wheels"
    assert settings["retries"] == "2"
    assert "timeout" not in settings


def test_local_folders_become_addresses_and_the_rest_stays(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "index" / "simple").mkdir(parents=True)
    (tmp_path / "bundle.pem").write_text("certificates")
    settings = {
        "find-links": str(tmp_path / "wheels"),
        "extra-index-url": f"{(tmp_path / 'index' / 'simple').as_uri()} https://packages.test/simple",
        "cert": str(tmp_path / "bundle.pem"),
        "cache-dir": "/somewhere",
    }
    with script.FolderServer() as server:
        secrets = script.secret_files(settings, server)
    told = configparser.ConfigParser()
    told.read_string(secrets["pip_conf"])
    own, other = told["global"]["extra-index-url"].split()
    assert own.startswith("http://127.0.0.1:")
    assert own.endswith("/simple")
    assert other == "https://packages.test/simple"
    assert told["global"]["find-links"].startswith("http://127.0.0.1:")
    assert told["global"]["cert"] == "/run/secrets/ca_bundle"
    assert secrets["ca_bundle"] == "certificates"
    assert "cache-dir" not in told["global"]


def test_without_settings_the_build_is_told_nothing(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with script.FolderServer() as server:
        secrets = script.secret_files({}, server)
    assert secrets == {"pip_conf": "[global]\ndisable-pip-version-check = true\n"}


def write_wheel(folder: Path, name: str) -> Path:
    path = folder / f"{name}-1.0+local-py3-none-any.whl"
    info = f"{name}-1.0+local.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0+local\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def test_pip_installs_from_the_folders_that_are_served(script: ModuleType, tmp_path: Path) -> None:
    wheels, index = tmp_path / "wheels", tmp_path / "index"
    page = index / "simple" / "thing-two"
    for folder in (wheels, index / "files", page):
        folder.mkdir(parents=True)
    write_wheel(wheels, "thing_one")
    listed = write_wheel(index / "files", "thing_two")
    (page / "index.html").write_text(f'<a href="../../files/{listed.name.replace("+", "%2B")}">{listed.name}</a>')
    settings = {"find-links": str(wheels), "index-url": (index / "simple").as_uri()}
    with script.FolderServer() as server:
        (tmp_path / "pip.conf").write_text(script.secret_files(settings, server)["pip_conf"])
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        environment["PIP_CONFIG_FILE"] = str(tmp_path / "pip.conf")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path / "got")]
        done = subprocess.run(
            [*command, "thing-one", "thing-two"], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert {path.name[:9] for path in (tmp_path / "got").iterdir()} == {"thing_one", "thing_two"}


def test_only_the_given_folders_are_served(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "private.txt").write_text("private")
    with script.FolderServer() as server:
        address = urlsplit(server.address(str(tmp_path / "wheels")))

        def status(path: str) -> int:
            connection = http.client.HTTPConnection(address.netloc, timeout=10)
            connection.request("GET", path)
            return connection.getresponse().status

        assert status(address.path) == 200
        outside = ("../private.txt", "..%2Fprivate.txt", "../../etc/passwd")
        assert {status(f"{address.path}{path}") for path in outside} == {404}
        assert {status(path) for path in ("/", "/7/private.txt", "/etc/passwd", "//etc/passwd")} == {404}


def write_client(folder: Path, version: str, *, buildx: bool) -> Path:
    folder.mkdir()
    client = folder / "docker"
    client.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo "Docker version {version}";; *) exit {0 if buildx else 1};; esac\n'
    )
    client.chmod(0o755)
    return client


def test_a_client_that_cannot_build_does_not_hide_one_that_can(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = write_client(tmp_path / "new", "28.2.2, build e6534b4", buildx=False)
    old = write_client(tmp_path / "old", "20.10.24+dfsg1", buildx=False)
    plugin = write_client(tmp_path / "plugin", "29.0.0", buildx=True)
    monkeypatch.setenv("PATH", f"{new.parent}:{old.parent}:{plugin.parent}")
    assert script.docker_client() == str(old)
    monkeypatch.setenv("PATH", f"{new.parent}:{plugin.parent}:{old.parent}")
    assert script.docker_client() == str(plugin)
    monkeypatch.setenv("PATH", str(new.parent))
    with pytest.raises(SystemExit, match="buildx"):
        script.docker_client()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="not installed"):
        script.docker_client()
