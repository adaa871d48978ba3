"""Encoded sets: every record and caption, mirrored pictures encoded as pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny import encode, write_training_set
from unsee.errors import ArtifactError, InputError
from unsee.models import encoded_set
from unsee.models.encoded_set import EncodedSet, Entries, pixels_to_unit
from unsee.models.pipeline import DiffusersModel
from unsee.records.training_set import TrainingSet


def test_entries_cover_every_record_caption_and_flip(digits_set: TrainingSet, encoded_digits: EncodedSet) -> None:
    entries = encoded_digits.entries((False, True))
    assert len(entries) == 2 * sum(len(r.captions) for r in digits_set.records)
    assert len({e.key for e in entries}) == len(entries)
    assert encoded_digits.records == [r.record for r in digits_set.records]
    captions = {c for r in digits_set.records for c in r.captions}
    assert len(encoded_digits.texts["states"]) == len(captions)
    some = set(encoded_digits.records[3:5])
    assert {e.record for e in encoded_digits.entries((False,), some)} == some


def test_latents_and_texts_are_the_models_own(
    tiny_model: DiffusersModel, digits_set: TrainingSet, encoded_digits: EncodedSet
) -> None:
    ((_, pixels),) = digits_set.iter_pixels(batch_size=100)
    for entry in encoded_digits.entries((False, True))[::7]:
        unit = pixels_to_unit(pixels[entry.position : entry.position + 1])
        expected = tiny_model.encode_pictures(unit.flip(-1) if entry.flip else unit)
        torch.testing.assert_close(
            encoded_digits.latents([entry.position], [entry.flip]), expected, rtol=1e-4, atol=1e-5
        )
    record = digits_set.records[1]
    entry = next(e for e in encoded_digits.entries((False,), {record.record}))
    expected_text = tiny_model.encode_texts([record.captions[0]])["states"]
    torch.testing.assert_close(encoded_digits.text_states([entry.text])["states"], expected_text, rtol=1e-4, atol=1e-5)


def test_latents_are_found_across_files(tiny_model, digits_set, encoded_digits, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(encoded_set, "RECORDS_PER_FILE", 64)
    set_ = write_training_set(tmp_path / "set", count=150)
    split = encode(tiny_model, set_, tmp_path / "split", flips=False)
    assert len(list((tmp_path / "split").glob("latents-*.safetensors"))) == 3
    monkeypatch.undo()
    whole = encode(tiny_model, set_, tmp_path / "whole", flips=False)
    monkeypatch.setattr(encoded_set, "RECORDS_PER_FILE", 64)
    parts = split.latents([149, 0, 64], [False] * 3)
    monkeypatch.undo()
    assert torch.equal(parts, whole.latents([149, 0, 64], [False] * 3))


def test_mirrored_latents_need_mirrored_encoding(tiny_model, digits_set, tmp_path: Path) -> None:
    plain = encode(tiny_model, digits_set, tmp_path / "plain", flips=False)
    with pytest.raises(InputError, match="encoded without mirrored pictures"):
        plain.latents([0], [True])


def test_another_resolution_is_refused_with_the_right_one(tiny_model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Set data\.resolution to 16"):
        encode(tiny_model, write_training_set(tmp_path / "set", 3, resolution=32), tmp_path / "out")


def test_a_damaged_file_is_named(tiny_model, digits_set, tmp_path: Path) -> None:
    encode(tiny_model, digits_set, tmp_path / "set", flips=False)
    path = tmp_path / "set" / "latents-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"latents-00000.safetensors: does not match its sha256"):
        EncodedSet.load(tmp_path / "set")


def test_entries_as_columns_are_the_entries(encoded_digits: EncodedSet) -> None:
    entries = encoded_digits.entries((False, True))
    assert entries.keys().to_pylist() == [entry.key for entry in entries]
    again = Entries.of(entries)
    assert list(again) == list(entries)
    assert list(entries[3:9:2]) == list(entries)[3:9:2]
    assert entries[-1] == list(entries)[-1]
    with pytest.raises(IndexError):
        entries[len(entries)]
