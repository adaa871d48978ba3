"""Folders under DVC at a revision: real git repositories, real DVC, a local folder as the remote."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from unsee.errors import EnvironmentProblem, InputError, UnseeError
from unsee.records import imagefolder
from unsee.records.candidates import Candidate
from unsee.records.dvc_source import commit_of, fetched

ENVIRONMENT = {
    **os.environ,
    "DVC_NO_ANALYTICS": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def command(folder: Path, *words: str) -> str:
    program = [sys.executable, "-m", "dvc"] if words[0] == "dvc" else [words[0]]
    done = subprocess.run(
        [*program, *words[1:]], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def fill(folder: Path, colours: dict[str, int]) -> None:
    folder.mkdir(exist_ok=True)
    for name, colour in colours.items():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (colour, 0, 0)).save(folder / name)
    rows = [{"file_name": name, "text": f"caption of {name}"} for name in colours]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def use_remote(repo: Path, url: str, *more: str) -> None:
    lines = ["[core]", "remote = store", "['remote \"store\"']", f"url = {url}", *more]
    (repo / ".dvc" / "config").write_text("\n".join(lines) + "\n")


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`repo` with tags `one` and `two`, its remote `store`, and `clone`, which has the pointers and no data."""
    world = tmp_path_factory.mktemp("dvc")
    repo = world / "repo"
    repo.mkdir()
    command(repo, "git", "init", "-q", "-b", "main")
    command(repo, "dvc", "init", "-q")
    use_remote(repo, str(world / "store"))
    # As a whole (`data`), file by file beside metadata in git (`mixed`), and in git alone (`plain`).
    fill(repo / "data", {"a.png": 1, "sub/b.png": 2})
    fill(repo / "mixed", {"c.png": 3, "d.png": 4})
    fill(repo / "plain", {"e.png": 5})
    command(repo, "dvc", "add", "-q", "data", "mixed/c.png", "mixed/d.png")
    command(repo, "git", "add", "-A")
    command(repo, "git", "commit", "-q", "-m", "one")
    command(repo, "git", "tag", "-a", "one", "-m", "an annotated tag")
    command(repo, "dvc", "push", "-q")
    fill(repo / "data", {"a.png": 1, "sub/b.png": 2, "new.png": 6})
    command(repo, "dvc", "add", "-q", "data")
    command(repo, "git", "commit", "-q", "-a", "-m", "two")
    command(repo, "git", "tag", "two")
    command(repo, "dvc", "push", "-q")
    command(world, "git", "clone", "-q", str(repo), "clone")
    return world


@pytest.fixture
def own(world: Path, tmp_path: Path) -> Path:
    """A clone and a remote of the test's own, to do damage to."""
    shutil.copytree(world / "store", tmp_path / "store")
    command(tmp_path, "git", "clone", "-q", str(world / "repo"), "clone")
    use_remote(tmp_path / "clone", str(tmp_path / "store"))
    command(tmp_path / "clone", "git", "commit", "-q", "-a", "-m", "own store")
    return tmp_path


def sources(repo: Path | str, rev: str, path: str) -> dict[str, str | None]:
    with fetched(str(repo), rev, path) as tracked:
        intake = imagefolder.intake(tracked.folder, 64.0, called=tracked.called, md5s=tracked.md5s)
        return {item.source: item.md5 for item in intake.items if isinstance(item, Candidate)}


@pytest.mark.parametrize("place", ["repo", "clone", "url"])
def test_two_revisions_are_two_sets(world: Path, place: str) -> None:
    repo = f"file://{world / 'repo'}" if place == "url" else world / place
    data = world / "repo" / "data"
    one = {name: md5(data / name) for name in ("a.png", "sub/b.png")}
    assert sources(repo, "one", "data") == one
    assert sources(repo, "two", "./data/") == {**one, "new.png": md5(data / "new.png")}


def test_the_revision_is_told(world: Path) -> None:
    repo = world / "repo"
    commit = command(repo, "git", "rev-parse", "one^{commit}")
    for rev in ("one", commit):
        with fetched(str(repo), rev, "data") as tracked:
            pointer = command(repo, "git", "show", "one:data.dvc")
            assert tracked.meta == {
                "repo": str(repo),
                "rev": rev,
                "commit": commit,
                "path": "data",
                "md5": pointer.split("md5: ")[1].split()[0],
            }
            assert tracked.called == f"{repo}@{rev}:data"
            held = tracked.folder
        assert not held.exists()
    with fetched(str(repo), "main", "data") as tracked:
        assert tracked.meta["commit"] == command(repo, "git", "rev-parse", "main")


def test_what_a_revision_means_now(own: Path) -> None:
    clone = own / "clone"
    head = command(clone, "git", "rev-parse", "HEAD")
    assert commit_of(str(clone), "main") == commit_of(f"file://{clone}", "main") == commit_of("anywhere", head) == head
    command(clone, "git", "commit", "-q", "--allow-empty", "-m", "more")
    assert commit_of(str(clone), "main") == command(clone, "git", "rev-parse", "HEAD") != head
    with pytest.raises(InputError, match=r"data\.rev: there is no such revision"):
        commit_of(str(clone), "three")


def test_file_by_file_beside_metadata_in_git(world: Path) -> None:
    mixed = world / "repo" / "mixed"
    assert sources(world / "clone", "one", "mixed") == {name: md5(mixed / name) for name in ("c.png", "d.png")}
    with fetched(str(world / "clone"), "one", "mixed") as tracked:
        assert tracked.meta["md5"] is None


def test_in_git_alone(world: Path) -> None:
    assert sources(world / "clone", "one", "plain") == {"e.png": None}


def test_files_are_copies_even_where_dvc_links(own: Path) -> None:
    clone = own / "clone"
    use_remote(clone, str(own / "store"), "[cache]", "type = symlink")
    command(clone, "dvc", "pull", "-q")
    assert (clone / "data" / "a.png").is_symlink()
    command(clone, "git", "commit", "-q", "-a", "-m", "links")
    with fetched(str(clone), "main", "data") as tracked:
        assert not any(path.is_symlink() for path in tracked.folder.rglob("*"))
    assert len(sources(clone, "main", "data")) == 3


def test_no_link_in_git_is_followed(own: Path) -> None:
    clone = own / "clone"
    (clone / "plain" / "e.png").unlink()
    (clone / "plain" / "e.png").symlink_to("/etc/hostname")
    command(clone, "git", "commit", "-q", "-a", "-m", "link")
    with fetched(str(clone), "main", "plain") as tracked:
        assert (tracked.folder / "e.png").read_text() == "/etc/hostname"
    assert sources(clone, "main", "plain") == {}


@pytest.mark.parametrize(
    ("repo", "rev", "path", "field", "problem"),
    [
        ("absent", "one", "data", "data.repo", "no such repository"),
        (".", "one", "data", "data.repo", "no such repository"),
        ("file://{world}/absent", "one", "data", "data.repo", "no such repository"),
        ("clone", "three", "data", "data.rev", "no such revision"),
        ("file://{world}/repo", "three", "data", "data.rev", "no such revision"),
        ("clone", "one", "absent", "data.path", "does not exist at that revision"),
        ("clone", "one", "data/a.png", "data.path", "is not a folder"),
        ("clone", "one", "../repo/data", "data.path", "leads out of the repository"),
        ("clone", "one", "/data", "data.path", "leads out of the repository"),
    ],
)
def test_what_is_not_there_is_told(world: Path, repo: str, rev: str, path: str, field: str, problem: str) -> None:
    where = repo.format(world=world) if "://" in repo else str(world / repo)
    with pytest.raises(InputError) as raised, fetched(where, rev, path):
        pass
    assert raised.value.field == field
    assert problem in raised.value.problem
    assert raised.value.remedy


@pytest.fixture(scope="module")
def answering() -> Iterator[str]:
    """Address of a server that answers with the status that the first part of the path names."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.split("/")[1]))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("repo", "kind", "told"),
    [
        ("https://127.0.0.1:9/r.git", EnvironmentProblem, "cannot be reached (Connection refused)"),
        ("ssh://git@127.0.0.1:9/r.git", EnvironmentProblem, "cannot be reached (Connect call failed"),
        ("https://no-such-host.invalid/r.git", EnvironmentProblem, "cannot be reached ("),
        ("{server}/401/r.git", EnvironmentProblem, "its server refuses access. Check the credentials"),
        ("{server}/403/r.git", EnvironmentProblem, "its server refuses access. Check the credentials"),
        ("{server}/500/r.git", EnvironmentProblem, "cannot be fetched (GitProtocolError: unexpected http resp 500"),
        ("{server}/404/r.git", InputError, "there is no such repository"),
    ],
)
def test_a_repository_out_of_reach_is_not_told_as_missing(
    answering: str, repo: str, kind: type[UnseeError], told: str
) -> None:
    with pytest.raises(UnseeError) as raised:
        commit_of(repo.format(server=answering), "v1")
    assert type(raised.value) is kind
    assert told in str(raised.value)


def test_mistakes_in_the_metadata_name_the_revision(world: Path) -> None:
    with pytest.raises(InputError, match=r"clone@one:data/sub: holds no metadata\.jsonl"):
        sources(world / "clone", "one", "data/sub")


def stored(own: Path, digest: str) -> Path:
    return own / "store" / "files" / "md5" / digest[:2] / digest[2:]


def test_data_missing_from_the_remote(world: Path, own: Path) -> None:
    stored(own, md5(world / "repo" / "data" / "a.png")).unlink()
    with pytest.raises(InputError, match=r"'a\.png' is neither in DVC's cache nor in its remote\. Run `dvc push`"):
        sources(own / "clone", "one", "data")


def test_listing_missing_from_the_remote(own: Path) -> None:
    for listing in own.glob("store/files/md5/*/*.dir"):
        listing.unlink()
    # A repository that DVC has not seen yet, so that no index of it is cached.
    command(own, "git", "clone", "-q", str(own / "clone"), "fresh")
    with pytest.raises(InputError, match=r"folder's listing is neither in DVC's cache nor in its remote"):
        sources(own / "fresh", "one", "data")


def test_damaged_data_is_found_out(world: Path, own: Path) -> None:
    place = stored(own, md5(world / "repo" / "data" / "a.png"))
    place.chmod(0o644)
    Image.new("RGB", (8, 8), "blue").save(place, "PNG")
    with pytest.raises(InputError, match=r"'a\.png' does not match the md5 that DVC recorded"):
        sources(own / "clone", "one", "data")


def test_a_remote_that_cannot_be_used(own: Path) -> None:
    use_remote(own / "clone", "http://127.0.0.1:9/store")
    command(own / "clone", "git", "commit", "-q", "-a", "-m", "remote")
    with pytest.raises(EnvironmentProblem, match=r"clone@main:data: cannot be fetched \(.*dvc pull") as raised:
        sources(own / "clone", "main", "data")
    assert raised.value.remedy


def test_nothing_is_left_behind(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sources(f"file://{world / 'repo'}", "one", "data")
    with pytest.raises(InputError):
        sources(f"file://{world / 'repo'}", "three", "data")
    assert list(tmp_path.iterdir()) == []


def test_credentials_are_in_no_message() -> None:
    with (
        pytest.raises((InputError, EnvironmentProblem)) as raised,
        fetched("https://u:secret@127.0.0.1:9/r", "v1", "d"),
    ):
        pass
    assert "secret" not in str(raised.value)
    assert "https://127.0.0.1:9/r@v1:d" in str(raised.value)
