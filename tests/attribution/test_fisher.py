"""The Fisher equals a naive loop over records, for linear and other layers, and merges by addition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unsee.attribution.fisher import FisherSums, damped_inverse, fisher_draws, fisher_sums, merge
from unsee.attribution.fisher_artifact import sums_from_bytes, sums_to_bytes
from unsee.attribution.losses import Samples, sample_losses
from unsee.attribution.noise import NoiseKey, gaussian
from unsee.models.encoded_set import EncodedSet
from unsee.models.pipeline import DiffusersModel
from unsee.models.weights import select_weights, training_only


def draws_of(encoded: EncodedSet, records: list[str]):
    return fisher_draws(encoded, records, (False, True), 2, 5, 1000)


@pytest.mark.parametrize("preset", ["cross-attn-kv", "cross-attn", "attn", "all"])
def test_equals_a_loop_over_single_gradients(
    preset: str, tiny_model: DiffusersModel, encoded_digits: EncodedSet
) -> None:
    weights = select_weights(tiny_model.denoiser, preset)
    draws = draws_of(encoded_digits, encoded_digits.records[:4])
    sums = fisher_sums(tiny_model, encoded_digits, weights, draws, seed=5, batch_size=3)
    naive = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in weights.items()}
    for entry, timestep, draw in draws:
        latent = encoded_digits.latents([entry.position], [entry.flip])
        noise = gaussian([NoiseKey("fisher", 5, entry.key, timestep, draw)], latent.shape[1:])
        samples = Samples(latent, noise, torch.tensor([timestep]), encoded_digits.text_states([entry.text]))
        with training_only(tiny_model.denoiser, weights):
            sample_losses(tiny_model, samples)[0].backward()
            for name, parameter in weights.items():
                naive[name] += parameter.grad.double().square()
    assert sums.count == len(draws) == 8
    for name, values in naive.items():
        torch.testing.assert_close(sums.sums[name], values, rtol=2e-4, atol=1e-12)


def test_shards_merge_to_the_whole(tiny_model: DiffusersModel, encoded_digits: EncodedSet) -> None:
    weights = select_weights(tiny_model.denoiser, "cross-attn-kv")
    records = encoded_digits.records[:9]
    whole, one, other = (
        fisher_sums(tiny_model, encoded_digits, weights, draws_of(encoded_digits, part), seed=5, batch_size=4)
        for part in (records, records[:4], records[4:])
    )
    # A shard that comes from the cache has its names in another order.
    merged = merge([one, sums_from_bytes(sums_to_bytes(other))])
    assert merged.count == whole.count
    for name, values in whole.mean().items():
        torch.testing.assert_close(merged.mean()[name], values, rtol=1e-5, atol=0)


def test_merging_nothing_or_different_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no Fisher sums"):
        merge([])
    with pytest.raises(ValueError, match="different parameters"):
        merge([FisherSums({"a": torch.ones(1)}, 1), FisherSums({"b": torch.ones(1)}, 1)])


def test_a_records_draws_do_not_depend_on_the_other_records(encoded_digits: EncodedSet) -> None:
    records = encoded_digits.records
    alone = draws_of(encoded_digits, [records[3]])
    assert [d for d in draws_of(encoded_digits, records) if d[0].record == records[3]] == alone
    timesteps = np.array([t for _, t, _ in draws_of(encoded_digits, records)])
    assert (timesteps[::2] < 500).all()
    assert (timesteps[1::2] >= 500).all()


def test_damping_bounds_dead_weights_and_no_damping_does_not() -> None:
    fisher = {"w": torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), "dead": torch.zeros(2, dtype=torch.float64)}
    damped = damped_inverse(fisher, 0.5)
    torch.testing.assert_close(damped["w"], 1 / torch.tensor([2 / 3, 5 / 3, 11 / 3], dtype=torch.float64))
    assert not damped["dead"].any()
    assert torch.isinf(damped_inverse(fisher, 0.0)["w"][0])


def test_nothing_requires_gradients_afterwards(tiny_model: DiffusersModel, encoded_digits: EncodedSet) -> None:
    weights = select_weights(tiny_model.denoiser, "cross-attn-kv")
    fisher_sums(
        tiny_model, encoded_digits, weights, draws_of(encoded_digits, encoded_digits.records[:1]), seed=5, batch_size=4
    )
    assert not any(p.requires_grad or p.grad is not None for p in tiny_model.denoiser.parameters())
