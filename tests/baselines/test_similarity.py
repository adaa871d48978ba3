"""Similarity baselines rank a record first for itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from unsee.baselines.encoders import picture_encoder, sentence_encoder
from unsee.baselines.similarity import CosineSimilarity, LatentPixelSimilarity, normalised


@given(st.integers(0, 10_000), st.integers(2, 12))
def test_a_record_is_most_similar_to_itself(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(count, 2, 3, 3))
    pixel = LatentPixelSimilarity(latents, latents)
    cosine = CosineSimilarity("text", latents.reshape(count, -1), range(count), latents.reshape(count, -1))
    for query in range(count):
        assert pixel.scores(query).argmax() == query
        assert pixel.scores(query)[query] == 0
        assert cosine.scores(query).argmax() == query
        assert cosine.scores(query)[query] == pytest.approx(1)


def test_the_nearest_caption_counts() -> None:
    rows = np.array([[1.0, 0], [0, 1], [-1, 0]])
    scores = CosineSimilarity("text", rows, [0, 0, 1], np.array([[0.0, 2.0]])).scores(0)
    assert scores == pytest.approx([1.0, 0.0])


def test_zero_rows_stay_zero() -> None:
    assert not normalised(np.zeros((1, 3))).any()


def test_sentences_about_the_same_thing_are_closer() -> None:
    vectors = normalised(sentence_encoder()(["red apple, noto style", "green apple, noto style", "violin, noto style"]))
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    alone = normalised(sentence_encoder()(["red apple, noto style"]))
    assert alone[0] == pytest.approx(vectors[0], abs=1e-5)


def test_a_paler_digit_is_closest_to_its_original() -> None:
    digits = load_digits().images[:10].repeat(4, axis=1).repeat(4, axis=2) * 15
    pictures = np.repeat(digits.astype(np.uint8)[..., None], 3, axis=3)
    encode = picture_encoder()
    features = normalised(encode(pictures))
    assert features.shape == (10, 1280)
    paler = normalised(encode((pictures * 0.9 + 12).astype(np.uint8)))
    assert (paler @ features.T).argmax(axis=1).tolist() == list(range(10))
