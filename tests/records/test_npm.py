"""Archives from npm: only what matches its checksum is used, and every failure says what to do."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

from unsee.errors import EnvironmentProblem
from unsee.records.npm import NpmMissing, Package, fetch

CONTENT = b"an archive"
PACKAGE = Package("@scope/name", "1.0.0", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called npm that runs the shell lines a test gives it, and nothing else on the path."""
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def behaves(npm: Path, script: str) -> None:
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)


def test_names() -> None:
    assert PACKAGE.spec == "@scope/name@1.0.0"
    assert PACKAGE.file_name == "scope-name-1.0.0.tgz"
    assert Package("plain", "2.0.0", "").file_name == "plain-2.0.0.tgz"


def test_fetched_once_then_cached(npm: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    behaves(npm, f'echo "$@" >> {log}; printf "%s" "{CONTENT.decode()}" > scope-name-1.0.0.tgz')
    for _ in range(2):
        archive = fetch(PACKAGE, tmp_path / "cache")
        assert archive.read_bytes() == CONTENT
    assert [line.split()[:2] for line in log.read_text().splitlines()] == [["pack", "@scope/name@1.0.0"]]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["scope-name-1.0.0.tgz"]


def test_a_damaged_archive_is_fetched_again(npm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    behaves(npm, f'printf "%s" "{CONTENT.decode()}" > scope-name-1.0.0.tgz')
    archive = fetch(PACKAGE, tmp_path)
    archive.write_bytes(b"cut")
    with caplog.at_level(logging.WARNING):
        assert fetch(PACKAGE, tmp_path).read_bytes() == CONTENT
    assert "is damaged" in caplog.text


def test_another_archive_is_refused_and_not_kept(npm: Path, tmp_path: Path) -> None:
    behaves(npm, "echo other > scope-name-1.0.0.tgz")
    with pytest.raises(EnvironmentProblem, match=r"delivered another archive for @scope/name@1\.0\.0") as raised:
        fetch(PACKAGE, tmp_path / "cache")
    assert raised.value.remedy
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("script", ["echo no network >&2; exit 1", "echo no network >&2"])
def test_what_npm_says_is_passed_on(npm: Path, tmp_path: Path, script: str) -> None:
    behaves(npm, script)
    with pytest.raises(EnvironmentProblem, match=r"failed \(no network\)") as raised:
        fetch(PACKAGE, tmp_path / "cache")
    assert not isinstance(raised.value, NpmMissing)
    assert "data.source" in raised.value.remedy


def test_npm_missing(npm: Path, tmp_path: Path) -> None:
    with pytest.raises(NpmMissing, match=r"npm is not installed.*Install Node\.js"):
        fetch(PACKAGE, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    (tmp_path / PACKAGE.file_name).write_bytes(CONTENT)
    assert fetch(PACKAGE, tmp_path).name == PACKAGE.file_name, "what is cached needs no npm"
