"""Both kinds of store do the same things; a cache works in either."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers import S3Server
from unsee.cache import ContentCache, DamagedObject, check_key
from unsee.errors import InputError
from unsee.params import load_params
from unsee.platform.object_store import ObjectStore, open_store, try_store

MakeStore = Callable[[str], ObjectStore]
_numbers = itertools.count()


@pytest.fixture(params=["folder", "s3"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Opens the store of that name, of one kind; nobody else's objects are in it."""
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        where = f"s3://{server.bucket}/test-{next(_numbers)}-{os.getpid()}"
    else:
        where = str(tmp_path / "stores")
    return lambda name: open_store(f"{where}/{name}", load_params().store)


@pytest.fixture
def store(make: MakeStore) -> ObjectStore:
    return make("one")


def named(data: bytes, name: str = "name", suffix: str = ".bin") -> str:
    return f"{name}-{hashlib.sha256(data).hexdigest()}{suffix}"


@pytest.mark.parametrize("key", ["k", "a/b.bin", "a b/c+d%20&é=/名前.tar.gz", "x/" * 20 + "y"])
def test_bytes_come_back(store: ObjectStore, key: str) -> None:
    assert store.get(key) is None
    assert not store.exists(key)
    store.put(key, b"one")
    assert store.get(key) == b"one"
    assert store.exists(key)
    store.put(key, b"")
    assert store.get(key) == b""
    assert store.keys("") == [key]
    store.delete(key)
    store.delete(key)
    assert store.get(key) is None
    assert store.keys("") == []


def test_files_come_back(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "in").write_bytes(data)
    key = f"files/{named(data)}"
    store.put_file(key, tmp_path / "in")
    stored = store.stat(key)
    assert stored is not None
    assert (stored.key, stored.size, stored.sha256) == (key, len(data), hashlib.sha256(data).hexdigest())
    assert store.get_file(key, tmp_path / "new" / "out")
    assert (tmp_path / "new" / "out").read_bytes() == data
    assert not store.get_file("files/none", tmp_path / "none")
    assert store.stat("files/none") is None
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and "stores" not in path.parts) == [
        "in",
        "out",
    ]


def test_keys_are_found_by_prefix(store: ObjectStore) -> None:
    for key in ("a/b", "a/c/d", "ab", "b/a"):
        store.put(key, b"x")
    assert store.keys("") == ["a/b", "a/c/d", "ab", "b/a"]
    assert store.keys("a") == ["a/b", "a/c/d", "ab"]
    assert store.keys("a/") == ["a/b", "a/c/d"]
    assert store.keys("a/c") == ["a/c/d"]
    assert store.keys("c/none") == []


def test_stores_do_not_see_each_other(make: MakeStore) -> None:
    one, other = make("one"), make("one-more")
    one.put("k", b"1")
    assert other.keys("") == []
    assert other.get("k") is None


@pytest.mark.parametrize(
    "bad", ["", "/a", "a/", "../a", "a/../b", "a//b", "./a", "a/.hidden", "a\\b", "a\nb", "a" * 256]
)
def test_what_is_no_key_is_refused(store: ObjectStore, tmp_path: Path, bad: str) -> None:
    for call in (store.get, store.exists, store.stat, store.delete):
        with pytest.raises(InputError, match="is not a key"):
            call(bad)
    with pytest.raises(InputError, match="is not a key"):
        store.put(bad, b"x")
    with pytest.raises(InputError, match="is not a key"):
        store.get_file(bad, tmp_path / "out")


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "", "a", "é", "b c"]), max_size=5).map("/".join))
def test_a_key_is_a_plain_path_below_the_store(text: str) -> None:
    try:
        key = check_key(text)
    except InputError:
        return
    parts = Path(key).parts
    assert "/".join(parts) == key, "the path is the key, nothing was left out"
    assert not Path(key).is_absolute()
    assert not any(part.startswith(".") for part in parts)
    assert (Path("/store") / key).resolve().is_relative_to("/store")


def test_a_folder_is_not_left_through_a_link(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), load_params().store)
    store.put("a/b", b"1")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"2")
    (tmp_path / "store" / "link").symlink_to(tmp_path / "outside")
    assert store.keys("") == ["a/b"]
    for key in ("link/secret", "link/new"):
        with pytest.raises(InputError, match="leads out of the store's folder"):
            store.get(key)
        with pytest.raises(InputError, match="leads out of the store's folder"):
            store.put(key, b"3")
    with pytest.raises(InputError, match="leads out of the store's folder"):
        store.keys("link/")


def test_a_name_with_a_digest_is_compared(store: ObjectStore, tmp_path: Path) -> None:
    key = named(b"right")
    store.put(key, b"wrong")
    with pytest.raises(DamagedObject, match="does not match its sha256") as caught:
        store.get(key)
    assert key in str(caught.value)
    with pytest.raises(DamagedObject):
        store.get_file(key, tmp_path / "out" / "file")
    assert not list((tmp_path / "out").iterdir()), "nothing wrong is left behind"


def test_a_cache_gives_back_what_it_was_given(store: ObjectStore) -> None:
    cache = ContentCache(store)
    assert cache.read("place", "name", ".bin") is None
    assert list(cache.read_all("place", ".bin")) == []
    for number in range(20):
        cache.write("place", f"name{number:02}", bytes([number]), ".bin")
    cache.write("place", "name00", b"\0", ".bin")
    cache.write("place/deeper", "name", b"not here", ".bin")
    cache.write("place", "name00", b"other suffix", ".txt")
    assert list(cache.read_all("place", ".bin")) == [bytes([number]) for number in range(20)]
    assert cache.read("place", "name07", ".bin") == b"\7"
    assert len(store.keys("place/name")) == 21


def test_a_damaged_entry_is_removed_and_said_so(store: ObjectStore, caplog: pytest.LogCaptureFixture) -> None:
    cache = ContentCache(store)
    for number in range(3):
        cache.write("place", f"n{number}", b"data %d" % number, ".bin")
    key = store.keys("place/n1")[0]
    store.put(key, b"something else")
    with caplog.at_level(logging.WARNING):
        assert list(cache.read_all("place", ".bin")) == [b"data 0", b"data 2"]
    assert key in caplog.text
    assert "computed again" in caplog.text
    assert not store.exists(key)


def test_keys_are_the_same_in_every_kind_of_store(s3: S3Server, tmp_path: Path) -> None:
    stores = [open_store(uri, load_params().store) for uri in (str(tmp_path / "cache"), "s3://unsee/same-keys")]
    for store in stores:
        ContentCache(store).write("losses/abc", "part", b"1234", ".parquet")
    digest = hashlib.sha256(b"1234").hexdigest()
    assert [store.keys("") for store in stores] == [[f"losses/abc/part-{digest}.parquet"]] * 2


def test_writers_at_the_same_time_do_not_disturb_each_other(make: MakeStore) -> None:
    """Some write the same entries, all write one key: whoever reads gets one writer's bytes, whole."""
    size, troubles = 200_000, []

    def work(number: int) -> None:
        try:
            store = make("one")
            cache = ContentCache(store)
            for turn in range(5):
                cache.write("place", f"n{turn}", bytes([turn]) * size, ".bin")
                store.put("shared", bytes([number]) * size)
                seen = store.get("shared")
                assert seen is not None
                assert len(seen) == size
                assert len(set(seen)) == 1
        except BaseException as error:
            troubles.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    store = make("one")
    assert len(store.keys("place/")) == 5
    assert [data[:1] for data in ContentCache(store).read_all("place", ".bin")] == [bytes([turn]) for turn in range(5)]


def test_trying_a_store_leaves_nothing_there(make: MakeStore) -> None:
    store = make("one")
    try_store(store.uri, load_params().store)
    assert store.keys("") == []


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3:/bucket", "http://key:secret@host/bucket"])
def test_another_kind_of_address_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="neither a folder nor s3://bucket/prefix") as caught:
        open_store(uri, load_params().store)
    assert caught.value.field == "run.cache"
    assert "secret" not in str(caught.value)
