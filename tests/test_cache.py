"""The cache gives back what was stored, or nothing: never something damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from unsee.cache import ContentCache, default_root


def test_entries_come_back(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    assert cache.read("place", "name", ".bin") is None
    cache.write("place", "name", b"one", ".bin")
    cache.write("place", "name", b"one", ".bin")
    cache.write("place", "other", b"two", ".bin")
    assert cache.read("place", "name", ".bin") == b"one"
    assert sorted(cache.read_all("place", ".bin")) == [b"one", b"two"]
    assert len(list((tmp_path / "place").iterdir())) == 2


def test_a_damaged_entry_is_removed_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ContentCache(tmp_path)
    cache.write("place", "name", b"one", ".bin")
    path = next((tmp_path / "place").iterdir())
    path.write_bytes(b"onf")
    with caplog.at_level(logging.WARNING):
        assert cache.read("place", "name", ".bin") is None
    assert path.name in caplog.text
    assert not path.exists()


def test_an_unfinished_entry_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / ".name-abc.bin.1.part").write_bytes(b"half")
    assert list(ContentCache(tmp_path).read_all("place", ".bin")) == []


def test_the_environment_moves_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNSEE_CACHE", str(tmp_path))
    assert default_root() == tmp_path
