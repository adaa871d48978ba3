"""Processors as affinity and a container's quota leave them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unsee.processors import usable_processors


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("limit", "usable"), [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("1600000 100000", 8)]
)
def test_a_quota_of_the_second_version(eight: None, tmp_path: Path, limit: str, usable: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert usable_processors(tmp_path) == usable


@pytest.mark.parametrize(("limit", "usable"), [("-1", 8), ("400000", 4)])
def test_a_quota_of_the_first_version(eight: None, tmp_path: Path, limit: str, usable: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(limit)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_processors(tmp_path) == usable


def test_without_a_control_group_the_affinity_counts(eight: None, tmp_path: Path) -> None:
    assert usable_processors(tmp_path) == 8
