"""The training set on disk: what goes in comes out, identified by its pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unsee import artifacts
from unsee.errors import ArtifactError, InputError
from unsee.records import training_set
from unsee.records.identity import pixel_digest
from unsee.records.training_set import Quarantined, Record, TrainingSet, TrainingSetWriter, fit


def plain(colour: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, (colour % 256, colour // 256, 7))


def write(out: Path, pictures: list[Image.Image]) -> list[Record]:
    meta: dict[str, object] = {}
    with artifacts.writing(out, training_set.KIND, training_set.SCHEMA_VERSION, meta) as part:
        writer = TrainingSetWriter(part, 8)
        records = [writer.add(picture, (f"caption {i}", "both"), f"s/{i}") for i, picture in enumerate(pictures)]
        writer.quarantine("bad.png", "is empty (0 bytes)")
        meta.update(writer.finish(out))
    return records


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    pictures = [plain(i) for i in range(600)]  # more than two row groups
    records = write(tmp_path / "set", pictures)
    loaded = TrainingSet.load(tmp_path / "set")
    assert loaded.records == records
    assert loaded.quarantine == [Quarantined("bad.png", "is empty (0 bytes)")]
    assert loaded.meta == {"resolution": 8, "records": 600, "duplicates": 0, "quarantined": 1}
    for picture, (record, read) in zip(pictures, loaded.iter_pictures(), strict=True):
        assert read.tobytes() == picture.tobytes()
        assert record.record == f"{pixel_digest(picture)}-0"
    batches = list(loaded.iter_pixels(256))
    assert [part for part, _ in batches] == [slice(0, 256), slice(256, 512), slice(512, 600)]
    assert (np.concatenate([pixels for _, pixels in batches])[:, 0, 0, 0] == np.arange(600) % 256).all()
    some = [records[i].record for i in (599, 0, 300, 0)]
    assert {name: Image.open(io.BytesIO(png)).tobytes() for name, png in loaded.pictures(some).items()} == {
        records[i].record: pictures[i].tobytes() for i in (0, 300, 599)
    }


def test_exact_duplicates_are_kept_and_flagged(tmp_path: Path) -> None:
    one, other, again, third = write(tmp_path / "set", [plain(1), plain(2), plain(1), plain(1)])
    digest = pixel_digest(plain(1))
    assert [r.record for r in (one, again, third)] == [f"{digest}-{i}" for i in range(3)]
    assert [r.duplicate_of for r in (one, other, again, third)] == [None, None, one.record, one.record]


def test_shape_is_part_of_the_identity() -> None:
    assert pixel_digest(plain(1, (4, 2))) != pixel_digest(plain(1, (2, 4)))


def test_a_set_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no usable image \(bad\.png: is empty"):
        write(tmp_path / "set", [])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_set_is_not_loaded(tmp_path: Path) -> None:
    write(tmp_path / "set", [plain(1)])
    data = bytearray((tmp_path / "set" / artifacts.PICTURES).read_bytes())
    data[100] ^= 1
    (tmp_path / "set" / artifacts.PICTURES).write_bytes(data)
    with pytest.raises(ArtifactError, match="does not match its sha256"):
        TrainingSet.load(tmp_path / "set")


@settings(deadline=None, max_examples=60)
@given(width=st.integers(1, 90), height=st.integers(1, 90), resolution=st.integers(1, 16).map(lambda n: 8 * n))
def test_fit_always_gives_the_resolution(width: int, height: int, resolution: int) -> None:
    fitted = fit(plain(300, (width, height)), resolution)
    assert (fitted.mode, fitted.size) == ("RGB", (resolution, resolution))
    assert (np.asarray(fitted) == np.asarray(plain(300))[0, 0]).all(), "no border is added"


@pytest.mark.parametrize("size", [(96, 32), (32, 96)])
def test_fit_keeps_the_middle(size: tuple[int, int]) -> None:
    thirds = np.zeros((32, 96, 3), np.uint8)
    thirds[:, 32:64] = 200
    picture = Image.fromarray(thirds if size == (96, 32) else thirds.transpose(1, 0, 2))
    assert (np.asarray(fit(picture, 32)) == 200).all()


def test_fit_leaves_a_fitting_picture_alone() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert (np.asarray(fit(Image.fromarray(noise), 16)) == noise).all()
