"""The first step: from any source to a TrainingSet, whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unsee.errors import EnvironmentProblem, InputError
from unsee.params import Params, load_params
from unsee.platform.tracking import Tracker
from unsee.records.candidates import Candidate, Intake
from unsee.records.training_set import TrainingSet
from unsee.steps import version_data
from unsee.steps.runner import run_step


def params_of(**data: Any) -> Params:
    return load_params(None, {f"data.{key}": value for key, value in data.items()})


def run(out: Path, params: Params) -> TrainingSet:
    version_data.run({}, params, out)
    return TrainingSet.load(out)


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir()
    rows = []
    for i, name in enumerate(names):
        Image.new("RGB", (10 + i, 12), (i, 0, 0)).save(folder / name)
        rows.append(json.dumps({"file_name": name, "text": f"picture {i}", "group": "Ada", "license": "CC0-1.0"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def test_digits(tmp_path: Path) -> None:
    training_set = run(tmp_path / "out", params_of(source="digits", resolution=16))
    assert len(training_set) == training_set.meta["records"] == 1797
    assert (training_set.meta["source"], training_set.resolution) == ("digits", 16)
    assert "fallback_from" not in training_set.meta
    _, picture = next(iter(training_set.iter_pictures()))
    assert (picture.mode, picture.size) == ("RGB", (16, 16))


def test_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = fill(tmp_path / "data", "a.png", "b.png", "c.png", "d.png")
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:50])
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    Image.new("CMYK", (9, 9)).save(folder / "d.png", "TIFF")
    (folder / "notes.txt").write_text("")
    with caplog.at_level(logging.INFO):
        training_set = run(tmp_path / "out", params_of(source="folder", path=str(folder)))
    first, copy, converted = training_set.records
    assert (first.source, first.captions, first.group, first.license) == ("a.png", ("picture 0",), "Ada", "CC0-1.0")
    assert (first.width, first.height) == (10, 12)
    assert copy.duplicate_of == first.record
    assert (converted.source, converted.conversion) == ("d.png", "CMYK to RGB")
    assert [q.source for q in training_set.quarantine] == ["b.png", "notes.txt"]
    assert training_set.meta == {
        "source": "folder",
        "resolution": 32,
        "records": 3,
        "duplicates": 1,
        "quarantined": 2,
        "metrics": {"records": 3, "duplicates": 1, "quarantined": 2},
    }
    assert "3 records, 1 exact duplicates" in caplog.text
    assert "2 files quarantined: b.png cannot be decoded" in caplog.text


def test_a_folder_is_the_same_set_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "data", "a.png", "b.png")
    here = run(tmp_path / "here", params_of(source="folder", path=str(folder)))
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    there = run(Path("there"), params_of(source="folder", path="copy"))
    assert there.digest == here.digest


def test_the_limit_on_megapixels_is_used(tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", "a.png", "b.png")
    training_set = run(tmp_path / "out", params_of(source="folder", path=str(folder), max_megapixels=0.000125))
    assert [r.source for r in training_set.records] == ["a.png"]
    assert "data.max_megapixels" in training_set.quarantine[0].reason


def test_a_folder_under_dvc(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull}

    def command(*words: str) -> str:
        done = subprocess.run(words, cwd=repo, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    dvc = (sys.executable, "-m", "dvc")
    command("git", "init", "-q")
    command("git", "config", "user.name", "a")
    command("git", "config", "user.email", "a@example.org")
    command(*dvc, "init", "-q")
    fill(repo / "data", "a.png", "b.png")
    command(*dvc, "add", "-q", "data")
    command("git", "add", "-A")
    command("git", "commit", "-q", "-m", "one")
    shutil.rmtree(repo / "data")
    commit = command("git", "rev-parse", "HEAD")
    params = params_of(source="folder", path="data", repo=str(repo), rev="HEAD")
    training_set = run(tmp_path / "out", params)
    assert training_set.meta["dvc"] == {
        "repo": str(repo),
        "rev": "HEAD",
        "commit": commit,
        "path": "data",
        "md5": (repo / "data.dvc").read_text().split("md5: ")[1].split()[0],
    }
    listing = json.loads(next((repo / ".dvc" / "cache").rglob("*.dir")).read_text())
    recorded = {item["relpath"]: item["md5"] for item in listing}
    assert version_data.outside(params)["commit"] == commit
    assert {r.source: r.md5 for r in training_set.records} == {k: v for k, v in recorded.items() if k.endswith(".png")}


def test_digits_stand_in_where_npm_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    training_set = run(tmp_path / "out", params_of(source="emoji"))
    assert (training_set.meta["source"], training_set.meta["fallback_from"]) == ("digits", "emoji")
    assert "npm is not installed" in caplog.text
    assert "digits instead of the emoji" in caplog.text


def test_nothing_stands_in_where_npm_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    with pytest.raises(EnvironmentProblem, match=r"`npm pack .*` failed"):
        version_data.run({}, params_of(source="emoji"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.npm
def test_emoji(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    cache: Path = request.config.cache.mkdir("emoji")
    monkeypatch.setenv("UNSEE_CACHE", str(cache.parent))
    asked = {"emoji_styles": ["fluent-3d", "noto"], "emoji_groups": ["food-drink", "animals-nature"]}
    training_set = run(tmp_path / "out", params_of(source="emoji", **asked))
    assert training_set.meta["records"] == 291 + 285
    assert training_set.meta["source"] == "emoji"
    assert training_set.meta["emoji_styles"] == ["noto", "fluent-3d"]
    assert len(training_set.meta["packages"]) == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [('{"file_name": "a.png"}', "missing or empty"), ('{"file_name": "a.png", "text": "x"}', "holds no usable image")],
)
def test_bad_input_leaves_nothing_and_keeps_what_was_there(tmp_path: Path, text: str, problem: str) -> None:
    folder = fill(tmp_path / "data", "a.png")
    params = params_of(source="folder", path=str(folder))
    before = run(tmp_path / "out", params).digest
    (folder / "a.png").write_bytes(b"")
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises(InputError, match=problem):
        version_data.run({}, params, tmp_path / "out")
    assert TrainingSet.load(tmp_path / "out").digest == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out"]


def test_a_changed_folder_is_noticed(tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", "a.png", "b.png")
    params = params_of(source="folder", path=str(folder))
    seen = [version_data.outside(params)]
    assert version_data.outside(params) == seen[0]
    (folder / "a.png").write_bytes(b"")
    seen.append(version_data.outside(params))
    (folder / "more.png").write_bytes(b"")
    seen.append(version_data.outside(params))
    os.utime(folder / "metadata.jsonl", ns=(0, 0))
    seen.append(version_data.outside(params))
    assert len({json.dumps(each) for each in seen}) == 4
    with pytest.raises(InputError, match="does not exist"):
        version_data.outside(params_of(source="folder", path=str(tmp_path / "absent")))


def with_npm(folder: Path) -> None:
    (folder / "npm").write_text("#!/bin/sh\nexit 1\n")
    (folder / "npm").chmod(0o755)


def test_npm_becoming_available_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    params, work = load_params(None, {"data.source": "emoji", "tracking.enabled": False}), tmp_path / "work"
    tracker = Tracker(params, work)
    assert not run_step("version_data", params, work, tracker=tracker).skipped
    assert run_step("version_data", params, work, tracker=tracker).skipped
    with_npm(tmp_path)
    with pytest.raises(EnvironmentProblem, match="npm pack"):
        run_step("version_data", params, work, tracker=tracker)


def test_emoji_that_were_had_once_stay_when_cache_and_npm_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, work = load_params(None, {"data.source": "emoji", "tracking.enabled": False}), tmp_path / "work"
    monkeypatch.setenv("PATH", str(tmp_path))
    with_npm(tmp_path)
    drawing = Candidate(Image.new("RGB", (8, 8)), ("red apple, noto style",), "noto/1f34e")
    fetched = Intake("the emoji recipe", 1, iter([drawing]))
    tracker = Tracker(params, work)
    with monkeypatch.context() as patch:
        patch.setattr(version_data.emoji, "intake", lambda *_: fetched)
        first = run_step("version_data", params, work, tracker=tracker)
    (tmp_path / "npm").unlink()
    again = run_step("version_data", params, work, tracker=tracker)
    assert again.skipped
    assert (again.digest, again.meta["source"]) == (first.digest, "emoji")


ON_A_FULL_DISK = """
import sys
from pathlib import Path
from unsee.errors import EnvironmentProblem
from unsee.params import load_params
from unsee.steps import version_data
disk = Path(sys.argv[1])
try:
    version_data.run({}, load_params(None, {"data.source": "digits", "data.resolution": 32}), disk / "out")
except EnvironmentProblem as error:
    print(error)
print(sorted(p.name for p in disk.iterdir()))
"""


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=256k none "{tmp_path}"'
    space = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*space, mount], check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    done = subprocess.run(
        [*space, f'{mount} && exec "$0" -c "$1" "{tmp_path}"', sys.executable, ON_A_FULL_DISK],
        check=True,
        capture_output=True,
        text=True,
    )
    told, left = done.stdout.splitlines()
    assert told.startswith(f"{tmp_path}/out: cannot be written (")
    assert "No space left on device" in told
    assert "Free some space" in told
    assert left == "[]"


def test_the_resolution_of_the_audited_model(pipeline_folder: Path, tmp_path: Path) -> None:
    from tiny import RESOLUTION

    params = load_params(None, {"data.source": "digits", "data.resolution": None, "model.path": str(pipeline_folder)})
    assert run(tmp_path / "out", params).resolution == RESOLUTION


def test_a_model_that_does_not_tell_its_resolution(pipeline_folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(pipeline_folder, tmp_path / "model")
    (model / "unet" / "config.json").write_text('{"sample_size": null}')
    params = load_params(None, {"data.source": "digits", "data.resolution": None, "model.path": str(model)})
    with pytest.raises(InputError, match=r"sample_size: .*Set data\.resolution") as raised:
        version_data.run({}, params, tmp_path / "out")
    assert raised.value.file == str(model)
