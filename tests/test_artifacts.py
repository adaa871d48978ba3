"""Artifact folders: whole or not at all, and a digest that finds every change."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unprivileged import unprivileged
from unsee import artifacts
from unsee.errors import ArtifactError, EnvironmentProblem


def make(out: Path, text: str = "content", **meta) -> artifacts.Header:
    with artifacts.writing(out, "Thing", 1, meta) as part:
        (part / "data.txt").write_text(text)
        (part / "deep").mkdir()
        (part / "deep" / "more.bin").write_bytes(b"\0\1")
    return artifacts.read_header(out, "Thing", 1)


def test_equal_content_has_an_equal_digest_wherever_it_lies(tmp_path: Path) -> None:
    one, same = make(tmp_path / "a", n=1), make(tmp_path / "b", n=1)
    assert one.digest == same.digest
    assert make(tmp_path / "c", n=2).digest != one.digest
    assert make(tmp_path / "d", text="other", n=1).digest != one.digest


def test_a_failure_leaves_the_old_artifact_and_no_rest(tmp_path: Path) -> None:
    out = tmp_path / "thing"
    before = make(out).digest
    with pytest.raises(RuntimeError), artifacts.writing(out, "Thing", 1) as part:
        (part / "data.txt").write_text("half")
        raise RuntimeError
    assert artifacts.read_header(out, "Thing", 1).digest == before
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]


def test_replacing_leaves_only_the_new_one(tmp_path: Path) -> None:
    make(tmp_path / "thing", "old")
    make(tmp_path / "thing", "new")
    assert (tmp_path / "thing" / "data.txt").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(where=st.integers(0, 10_000), bit=st.integers(0, 7), name=st.sampled_from(["data.txt", "deep/more.bin"]))
def test_any_flipped_bit_is_found_and_named(tmp_path_factory, where: int, bit: int, name: str) -> None:
    out = tmp_path_factory.mktemp("flip") / "thing"
    make(out)
    data = bytearray((out / name).read_bytes())
    data[where % len(data)] ^= 1 << bit
    (out / name).write_bytes(data)
    with pytest.raises(ArtifactError, match="does not match its sha256") as caught:
        artifacts.read_header(out, "Thing", 1)
    assert caught.value.file == str(out / name)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    out = tmp_path / "thing"
    with pytest.raises(ArtifactError, match="not an artifact folder"):
        artifacts.read_header(out, "Thing", 1)
    make(out)
    with pytest.raises(ArtifactError, match="is 'Thing', not 'Other'"):
        artifacts.read_header(out, "Other", 1)
    with pytest.raises(ArtifactError, match="schema version 1, this version of unsee reads 2"):
        artifacts.read_header(out, "Thing", 2)
    (out / "data.txt").write_text("cont")
    with pytest.raises(ArtifactError, match="has 4 bytes, not 7"):
        artifacts.read_header(out, "Thing", 1, verify=False)
    (out / "data.txt").unlink()
    with pytest.raises(ArtifactError, match=r"data\.txt: is missing"):
        artifacts.read_header(out, "Thing", 1, verify=False)
    (out / artifacts.HEADER).write_text("{")
    with pytest.raises(ArtifactError, match="not a readable header"):
        artifacts.read_header(out, "Thing", 1)


def test_an_altered_header_is_found(tmp_path: Path) -> None:
    make(tmp_path / "thing", n=1)
    path = tmp_path / "thing" / artifacts.HEADER
    body = json.loads(path.read_text())
    body["meta"]["n"] = 2
    path.write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match="digest: does not match the header's content"):
        artifacts.read_header(tmp_path / "thing", "Thing", 1)


def test_a_header_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    header = make(tmp_path / "thing")
    files = {**header.files, "../secret": (1, "0" * 64)}
    crafted = artifacts.Header("Thing", 1, {}, files)
    body = {
        "kind": "Thing",
        "schema_version": 1,
        "digest": crafted.digest,
        "meta": {},
        "files": {n: {"bytes": b, "sha256": s} for n, (b, s) in files.items()},
    }
    (tmp_path / "thing" / artifacts.HEADER).write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match="leads out of the folder"):
        artifacts.read_header(tmp_path / "thing", "Thing", 1)


def test_a_full_disk_is_an_environment_problem_that_names_the_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentProblem, match="No space left on device") as caught,
        artifacts.writing(tmp_path / "thing", "Thing", 1),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.file == str(tmp_path / "thing")
    assert "--out" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["thing", "deep/thing"])
def test_a_folder_that_may_not_be_written_is_named_with_what_to_set(tmp_path: Path, place: str) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    with (
        unprivileged(tmp_path),
        pytest.raises(EnvironmentProblem, match="Permission denied") as caught,
        artifacts.disk_errors(closed / place, "run.cache"),
    ):
        (closed / place).with_suffix(".part").mkdir(parents=True)
    assert caught.value.file == str(closed / place)
    assert caught.value.remedy.endswith("choose another one with run.cache.")


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match=r"Not a directory.*in the way"):
        make(tmp_path / "file" / "thing")
    with (
        pytest.raises(EnvironmentProblem, match=r"File exists.*in the way"),
        artifacts.disk_errors(tmp_path / "file"),
    ):
        (tmp_path / "file").mkdir(exist_ok=True)
    with pytest.raises(EnvironmentProblem, match="shorter name"):
        make(tmp_path / ("x" * 251))


def test_an_input_that_may_not_be_read_is_not_told_as_an_output(tmp_path: Path) -> None:
    closed = tmp_path / "work" / "thing_before" / "closed"
    closed.parent.mkdir(parents=True)
    closed.touch()
    closed.chmod(0)
    with (
        unprivileged(tmp_path),
        pytest.raises(PermissionError) as caught,
        artifacts.writing(tmp_path / "work" / "thing", "Thing", 1),
    ):
        closed.read_bytes()
    assert caught.value.filename == str(closed)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["thing_before"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="/dev/full is no device here")
def test_a_full_disk_is_told_by_copies_too(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"x" * 100)
    full = tmp_path / "thing.part"
    full.symlink_to("/dev/full")
    with pytest.raises(EnvironmentProblem, match="No space left"), artifacts.disk_errors(tmp_path / "thing"):
        shutil.copyfile(tmp_path / "elsewhere", full)


def test_nan_never_reaches_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        artifacts.write_json(tmp_path / "x.json", {"a": float("nan")})
