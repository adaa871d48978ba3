"""The five-style emoji recipe."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from unsee.errors import InputError
from unsee.params import Style
from unsee.records import emoji
from unsee.records.candidates import Candidate, Intake
from unsee.records.npm import NpmMissing
from unsee.records.training_set import Quarantined

COUNTS = {"noto": 291, "twemoji": 291, "openmoji": 291, "fluent-flat": 288, "fluent-3d": 285}
LICENSES = {
    "noto": "Apache-2.0",
    "twemoji": "CC-BY-4.0",
    "openmoji": "CC-BY-SA-4.0",
    "fluent-flat": "MIT",
    "fluent-3d": "MIT",
}


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_styles_are_those_of_the_params() -> None:
    assert tuple(emoji.STYLES) == get_args(Style)
    assert {name: style.license for name, style in emoji.STYLES.items()} == LICENSES


@pytest.mark.parametrize(
    ("code_points", "code"),
    [
        ("1F34E", "1f34e"),
        ("0023-FE0F-20E3", "23-20e3"),
        ("23-20e3", "23-20e3"),
        ("1f3f3-fe0f-200d-1f308", "1f3f3-200d-1f308"),
    ],
)
def test_codes_meet(code_points: str, code: str) -> None:
    assert emoji.code_of(code_points) == code


def test_an_unknown_group_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.emoji_groups: there is no emoji group 'food'.*food-drink"):
        emoji.intake(["food"], ["noto"], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_npm_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NpmMissing):
        emoji.intake(["food-drink"], ["noto"], tmp_path / "cache")


def test_an_icon_set_is_joined_on_code_points(tmp_path: Path) -> None:
    icons = {
        "icons": {"apple": {"body": "<path/>"}, "star": {"body": "<path/>"}},
        "aliases": {"a": {"parent": "apple"}},
    }
    chars = {"1f34e": "a", "2b50": "star", "0031-fe0f-20e3": "absent"}
    files = {"icons.json": json.dumps(icons).encode(), "chars.json": json.dumps(chars).encode()}
    labels = {"1f34e": "red apple", "31-20e3": "keycap: 1"}
    found = emoji.STYLES["noto"].read(archive(tmp_path / "a.tgz", files), labels)
    assert list(found) == ["1f34e"], "not asked for, or leading nowhere: left out"
    assert "<svg" in str(found["1f34e"])


def test_a_webp_folder_is_joined_on_code_points(tmp_path: Path) -> None:
    files = {"assets/0031-fe0f-20e3.webp": b"first", "assets/31-fe0f-20e3.webp": b"second", "assets/2b50.webp": b"star"}
    labels = {"31-20e3": "keycap: 1"}
    path = archive(tmp_path / "a.tgz", {**files, "../../2b50.webp": b"", "README.md": b""})
    assert emoji.STYLES["fluent-3d"].read(path, labels) == {"31-20e3": b"first"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tgz"], "nothing is unpacked"


def test_a_drawing_that_cannot_be_rendered_is_quarantined() -> None:
    contents: list[str | bytes] = ["<svg", b"", '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>']
    drawings = [emoji._Drawing("noto", str(i), "label", content) for i, content in enumerate(contents)]
    bad, empty, good = emoji._rendered(drawings)
    assert isinstance(bad, Quarantined)
    assert empty == Quarantined("noto/1", "is empty (0 bytes)")
    assert isinstance(good, Candidate)
    assert good.captions == ("label, noto style",)


@pytest.fixture(scope="module")
def fetched(request: pytest.FixtureRequest) -> Path:
    """Where pytest keeps the archives between runs."""
    folder: Path = request.config.cache.mkdir("emoji")
    return folder


@pytest.fixture(scope="module")
def default(fetched: Path) -> tuple[Intake, list[Candidate]]:
    intake = emoji.intake(["food-drink", "animals-nature"], list(reversed(COUNTS)), fetched)
    return intake, [item for item in intake.items if isinstance(item, Candidate)]


@pytest.mark.npm
def test_the_default_recipe(default: tuple[Intake, list[Candidate]]) -> None:
    intake, items = default
    assert len(items) == intake.total == 1446, "none is quarantined"
    assert Counter(item.group for item in items) == COUNTS
    assert all(item.license == LICENSES[str(item.group)] for item in items)
    assert all(item.captions[0].endswith(f", {item.group} style") for item in items)
    sources = [item.source for item in items]
    assert len(set(sources)) == 1446
    assert sources == sorted(sources, key=lambda s: (list(COUNTS).index(s.split("/")[0]), s))
    apple = {item.source: item.captions for item in items if item.source.endswith("/1f34e")}
    assert apple == {f"{style}/1f34e": (f"red apple, {style} style",) for style in COUNTS}
    assert len(intake.meta["packages"]) == 6


@pytest.mark.npm
def test_drawings_are_recognisable(default: tuple[Intake, list[Candidate]]) -> None:
    """A red apple on white, in every style: mostly red in the middle, white in the corners."""
    for item in default[1]:
        if item.source.endswith("/1f34e"):
            pixels = np.asarray(item.picture.resize((32, 32), Image.Resampling.BOX)).astype(int)
            red, green, _ = pixels[12:20, 12:20].reshape(-1, 3).mean(0)
            assert red > green + 80
            assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] > 250).all()


@pytest.mark.npm
@pytest.mark.slow
def test_the_full_recipe(fetched: Path) -> None:
    intake = emoji.intake(emoji.GROUPS, list(COUNTS), fetched)
    assert intake.total == 8926
    items = list(intake.items)
    assert all(isinstance(item, Candidate) for item in items)
    assert len({item.source.split("/")[1] for item in items}) == 1914
