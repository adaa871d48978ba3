"""The cache gives back what was stored, or nothing: never something damaged."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from unsee.cache import ContentCache, local_root, location
from unsee.errors import EnvironmentProblem


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
    assert local_root(None) == tmp_path


def test_the_address_may_be_in_a_store_and_downloads_stay_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNSEE_CACHE", "s3://bucket/cache")
    assert location(None) == "s3://bucket/cache"
    assert location("mine") == "mine"
    assert local_root("mine") == Path("mine")
    for given in (None, "s3://other/cache"):
        assert not str(local_root(given)).startswith("s3:")
        assert local_root(given).is_absolute()
    monkeypatch.setenv("UNSEE_CACHE", "")
    assert Path(location(None)) == local_root(None)


def test_a_file_that_no_one_vouches_for_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "name.bin").write_bytes(b"whose?")
    (tmp_path / "place" / "notes.txt").write_bytes(b"mine")
    assert list(ContentCache(tmp_path).read_all("place", ".bin")) == []
    assert "is named without a digest" in caplog.text
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["notes.txt"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        ContentCache(tmp_path).write("place", "name", b"one", ".bin")
    assert list((tmp_path / "place").iterdir()) == []


def test_a_cache_that_cannot_be_written_says_where_to_choose_another(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match=r"run\.cache or UNSEE_CACHE") as caught:
        ContentCache(tmp_path / "file").write("place", "name", b"one", ".bin")
    assert caught.value.file == str(tmp_path / "file" / "place")
