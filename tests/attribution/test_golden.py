"""Numbers that the caches rest on. Where one of these changes, raise the version it names, then renew it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unsee.attribution.fisher import fisher_draws, fisher_sums
from unsee.attribution.losses import Picture
from unsee.attribution.unlearning import gradient_batches, probe_batches, query_gradient
from unsee.models.encoded_set import EncodedSet
from unsee.models.pipeline import DiffusersModel
from unsee.models.weights import select_weights
from unsee.versions import ENCODING_VERSION, FISHER_VERSION, UNLEARN_VERSION


@pytest.fixture
def picture(encoded_digits: EncodedSet) -> Picture:
    return Picture("query", encoded_digits.latents([3], [False])[0], encoded_digits.text_states([1]))


def test_golden_encoding(encoded_digits: EncodedSet) -> None:
    assert ENCODING_VERSION == 1
    latents = encoded_digits.latents([0, 1], [False, True])
    texts = encoded_digits.text_states([0])["states"]
    found = [
        latents.abs().mean().item(),
        latents[1].mean().item(),
        texts.abs().mean().item(),
        texts[0, 0, :3].sum().item(),
    ]
    np.testing.assert_allclose(found, GOLDEN_ENCODING, rtol=1e-4)


def test_golden_fisher(tiny_model: DiffusersModel, encoded_digits: EncodedSet) -> None:
    assert FISHER_VERSION == 2
    weights = select_weights(tiny_model.denoiser, "cross-attn-kv")
    draws = fisher_draws(encoded_digits, encoded_digits.records[:5], (False, True), 3, 0, 1000)
    sums = fisher_sums(tiny_model, encoded_digits, weights, draws, seed=0, batch_size=8)
    assert sums.count == 15
    np.testing.assert_allclose([values.sum().item() for values in sums.sums.values()][:3], GOLDEN_FISHER, rtol=1e-3)


def test_golden_query_gradient(tiny_model: DiffusersModel, picture: Picture) -> None:
    assert UNLEARN_VERSION == 1
    weights = select_weights(tiny_model.denoiser, "cross-attn-kv")
    batches = gradient_batches(picture, samples=12, seed=0, train_timesteps=1000, batch_size=8)
    gradient = query_gradient(tiny_model, weights, batches)
    norms = [values.norm().item() for values in gradient.values()][:3]
    np.testing.assert_allclose(norms, GOLDEN_GRADIENT, rtol=1e-3)


def test_the_effect_is_read_on_noises_that_the_gradient_did_not_use(picture: Picture) -> None:
    asked = {"samples": 40, "seed": 0, "train_timesteps": 1000, "batch_size": 40}
    (gradient,) = gradient_batches(picture, **asked)
    (probe,) = probe_batches(picture, **asked)
    distances = torch.cdist(gradient.noise.flatten(1), probe.noise.flatten(1))
    assert distances.min() > 1


GOLDEN_ENCODING = [0.1535749, -0.09087254, 0.8198888, 1.527198]
GOLDEN_FISHER = [0.0003872172, 0.0327042, 0.0004863739]
GOLDEN_GRADIENT = [0.002898206, 0.04153261, 0.002125325]
