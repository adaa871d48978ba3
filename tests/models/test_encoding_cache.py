"""Encodings are kept by record and caption, and found again by any training set of the same encoders."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny import write_training_set
from unsee import artifacts
from unsee.cache import ContentCache
from unsee.models import encoded_set, encoding_cache
from unsee.models.encoded_set import EncodedSet
from unsee.models.encoding_cache import RowCache, latents_place, texts_place
from unsee.models.pipeline import DiffusersModel
from unsee.records.training_set import TrainingSet


class Counted:
    """A model that notes what it is asked to encode."""

    def __init__(self, model: DiffusersModel) -> None:
        self._model = model
        self.pictures = 0
        self.captions: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        self.pictures += len(pixels)
        return self._model.encode_pictures(pixels)

    def encode_texts(self, captions: list[str]) -> Any:
        self.captions += captions
        return self._model.encode_texts(captions)


def encode(
    model: DiffusersModel, records: TrainingSet, out: Path, cache: Path, *, flips: bool = True
) -> tuple[EncodedSet, Counted]:
    counted = Counted(model)
    store = ContentCache(cache)
    meta: dict[str, Any] = {}
    with artifacts.writing(out, encoded_set.KIND, encoded_set.SCHEMA_VERSION, meta) as part:
        meta.update(
            encoded_set.encode_training_set(
                counted,  # type: ignore[arg-type]
                records,
                part,
                flips=flips,
                latents=RowCache(store, latents_place("vae", records.resolution)),
                texts=RowCache(store, texts_place(["text"], "Pipeline")),
            )
        )
    return EncodedSet.load(out), counted


def assert_same(
    one: EncodedSet, other: EncodedSet, records: list[str], flips: tuple[bool, ...] = (False, True)
) -> None:
    for record in records:
        for flip in flips:
            first, second = (s.latents([s.records.index(record)], [flip]) for s in (one, other))
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
        texts = [s.text_states([e.text for e in s.entries((False,), {record})])["states"] for s in (one, other)]
        torch.testing.assert_close(*texts, rtol=1e-4, atol=1e-5)


def test_the_same_set_again_is_not_encoded(tiny_model, digits_set: TrainingSet, encoded_digits, tmp_path: Path) -> None:
    first, asked = encode(tiny_model, digits_set, tmp_path / "first", tmp_path / "cache")
    assert asked.pictures == 2 * len(digits_set)
    assert len(set(asked.captions)) == len(asked.captions)
    assert first.digest == encoded_digits.digest, "a cache changes nothing"
    again, asked = encode(tiny_model, digits_set, tmp_path / "again", tmp_path / "cache")
    assert asked.pictures == 0
    assert asked.captions == []
    assert again.digest == first.digest


def test_a_set_that_shares_records_encodes_only_its_own(tiny_model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(encoding_cache, "BYTES_PER_FILE", 5000)
    small, large = (write_training_set(tmp_path / str(n), count=n) for n in (20, 150))
    first, _ = encode(tiny_model, small, tmp_path / "small", tmp_path / "cache")
    second, asked = encode(tiny_model, large, tmp_path / "large", tmp_path / "cache")
    assert asked.pictures == 2 * (150 - 20)
    assert not set(asked.captions) & {caption for record in small.records for caption in record.captions}
    assert_same(first, second, first.records)
    fresh, _ = encode(tiny_model, large, tmp_path / "fresh", tmp_path / "other-cache")
    assert_same(fresh, second, fresh.records[::7])


def test_mirrored_pictures_are_added_to_plain_ones(tiny_model, digits_set, encoded_digits, tmp_path: Path) -> None:
    _, asked = encode(tiny_model, digits_set, tmp_path / "plain", tmp_path / "cache", flips=False)
    assert asked.pictures == len(digits_set)
    both, asked = encode(tiny_model, digits_set, tmp_path / "both", tmp_path / "cache")
    assert asked.pictures == len(digits_set)
    assert_same(both, encoded_digits, both.records)


@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_a_damaged_file_costs_its_own_rows(
    tiny_model, encoded_digits, digits_set, tmp_path: Path, monkeypatch, caplog, suffix: str
) -> None:
    monkeypatch.setattr(encoding_cache, "BYTES_PER_FILE", 20_000)
    encode(tiny_model, digits_set, tmp_path / "first", tmp_path / "cache")
    files = sorted((tmp_path / "cache" / latents_place("vae", digits_set.resolution)).glob(f"*{suffix}"))
    assert len(files) > 1
    data = bytearray(files[0].read_bytes())
    data[-1] ^= 1
    files[0].write_bytes(data)
    with caplog.at_level(logging.WARNING):
        again, asked = encode(tiny_model, digits_set, tmp_path / "again", tmp_path / "cache")
    assert files[0].name in caplog.text
    assert 0 < asked.pictures < 2 * len(digits_set)
    assert_same(again, encoded_digits, again.records)
    _, asked = encode(tiny_model, digits_set, tmp_path / "once-more", tmp_path / "cache")
    assert asked.pictures == 0


def test_an_encoding_that_was_killed_goes_on(
    tiny_model, digits_set, encoded_digits, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(encoding_cache, "BYTES_PER_FILE", 1)
    monkeypatch.setattr(encoded_set, "_PICTURES_PER_BATCH", 4)
    calls = []

    def dying(self: Counted, pixels: Tensor) -> Tensor:
        calls.append(len(pixels))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return self._model.encode_pictures(pixels)

    with monkeypatch.context() as patched:
        patched.setattr(Counted, "encode_pictures", dying)
        with pytest.raises(KeyboardInterrupt):
            encode(tiny_model, digits_set, tmp_path / "set", tmp_path / "cache")
    assert not (tmp_path / "set").exists()
    found, asked = encode(tiny_model, digits_set, tmp_path / "set", tmp_path / "cache")
    assert asked.pictures == 2 * len(digits_set) - 5 * 4
    assert asked.captions == []
    assert_same(found, encoded_digits, found.records)


def test_another_encoder_or_resolution_has_a_place_of_its_own() -> None:
    places = {
        latents_place("a", 32),
        latents_place("b", 32),
        latents_place("a", 64),
        texts_place(["a", "b"], "P"),
        texts_place(["ab"], "P"),
        texts_place(["a", "b"], "Q"),
    }
    assert len(places) == 6


def test_what_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    rows = RowCache(ContentCache(tmp_path), "latents/x")
    rows.add(["a", "b"], {"latents": torch.tensor([[1.0], [float("nan")]])})
    rows.add(["c"], {"latents": torch.tensor([[2.0]])})
    rows.flush()
    ((places, found),) = rows.find(["a", "b", "c"])
    assert places.tolist() == [2]
    assert found["latents"].tolist() == [[2.0]]
