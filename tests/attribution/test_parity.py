"""Against independent, naive loops written straight from the equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from unsee.attribution import unlearning
from unsee.attribution.fisher import damped_inverse, fisher_draws, fisher_sums
from unsee.attribution.grid import midpoint_grid, official_grid
from unsee.attribution.losses import Picture, grid_losses
from unsee.attribution.noise import NoiseKey, gaussian, uniforms
from unsee.attribution.scoring import record_scores
from unsee.models.encoded_set import EncodedSet, Entries
from unsee.models.pipeline import DiffusersModel
from unsee.models.weights import select_weights, shifted

SEED, N, BATCHES, PASSES, ALPHA = 4, 5, 2, 3, 0.01


def noise(purpose: str, identity: str, timestep: int, draw: int) -> torch.Tensor:
    return gaussian([NoiseKey(purpose, SEED, identity, timestep, draw)], (4, 8, 8))


def naive_loss(model: DiffusersModel, latent, text, timestep: int, eps) -> torch.Tensor:
    """mean over elements of (eps_theta(sqrt(abar) z + sqrt(1 - abar) eps, t, c) - eps)^2."""
    betas = torch.linspace(0.0001**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)[timestep].float()
    output = model.denoiser(abar.sqrt() * latent + (1 - abar).sqrt() * eps, torch.tensor([timestep]), text).sample
    return ((output - eps) ** 2).mean()


def test_official_parity(tiny_model: DiffusersModel, encoded_digits: EncodedSet) -> None:
    """compat: official is theta0 + (alpha / N) F^-1 g, undamped; grid 0, 50, .., 950; captions mean, flips max."""
    records = encoded_digits.records[:N]
    rows = {r: [e for e in encoded_digits.entries((False, True)) if e.record == r] for r in records}
    picture = Picture("query", encoded_digits.latents([7], [False])[0], encoded_digits.text_states([1]))

    weights = select_weights(tiny_model.denoiser, "cross-attn-kv")
    draws = fisher_draws(encoded_digits, records, (False, True), PASSES, SEED, 1000)
    fisher = fisher_sums(tiny_model, encoded_digits, weights, draws, seed=SEED, batch_size=4).mean()
    batches = list(unlearning.official_batches(picture, batches=BATCHES, seed=SEED, train_timesteps=1000))
    gradient = unlearning.query_gradient(tiny_model, weights, batches)
    direction = unlearning.newton_direction(gradient, damped_inverse(fisher, 0.0))
    step = unlearning.official_step(tiny_model, weights, direction, batches[:1], records=N, alpha=ALPHA)
    grid = official_grid(1000, SEED)
    entries = Entries.of(e for r in records for e in rows[r])
    before = grid_losses(tiny_model, encoded_digits, entries, grid, batch_size=7)
    with shifted(weights, step.change):
        after = grid_losses(tiny_model, encoded_digits, entries, grid, batch_size=7)
    ours = record_scores(entries, before, after, grid, flips="max")

    # The naive side: one sample at a time, plain Python, autograd on named parameters.
    names = [n for n, _ in tiny_model.denoiser.named_parameters() if "attn2.to_k" in n or "attn2.to_v" in n]
    params = [dict(tiny_model.denoiser.named_parameters())[n] for n in names]
    for p in params:
        p.requires_grad_(True)
    sums = [torch.zeros_like(p, dtype=torch.float64) for p in params]
    for entry, timestep, draw in draws:
        latent = encoded_digits.latents([entry.position], [entry.flip])
        text = encoded_digits.text_states([entry.text])["states"]
        loss = naive_loss(tiny_model, latent, text, timestep, noise("fisher", entry.key, timestep, draw))
        for total, g in zip(sums, torch.autograd.grad(loss, params), strict=True):
            total.add_(g.double() ** 2)
    ascent = [torch.zeros_like(p, dtype=torch.float64) for p in params]
    for batch in range(BATCHES):
        order = np.argsort(uniforms(f"official-{batch}", SEED, "query", 1000), kind="stable")[:80]
        for i, timestep in enumerate(order.tolist()):
            eps = noise("official", "query", timestep, batch * 80 + i)
            loss = naive_loss(tiny_model, picture.latent[None], picture.text["states"], timestep, eps)
            for total, g in zip(ascent, torch.autograd.grad(loss, params), strict=True):
                total.add_(g.double() / (80 * BATCHES))
    for p in params:
        p.requires_grad_(False)
    moved = [
        p.detach() + ((ALPHA / N) * g / (total / len(draws))).float()
        for p, g, total in zip(params, ascent, sums, strict=True)
    ]

    def naive_losses(entry) -> float:
        values = []
        for timestep in range(0, 1000, 50):
            latent = encoded_digits.latents([entry.position], [entry.flip])
            text = encoded_digits.text_states([entry.text])["states"]
            with torch.no_grad():
                values.append(
                    float(naive_loss(tiny_model, latent, text, timestep, noise("loss", entry.key, timestep, 0)))
                )
        return float(np.mean(values))

    kept = [p.detach().clone() for p in params]
    base = {e.key: naive_losses(e) for e in entries}
    with torch.no_grad():
        for p, new in zip(params, moved, strict=True):
            p.copy_(new)
    unlearned = {e.key: naive_losses(e) for e in entries}
    with torch.no_grad():
        for p, old in zip(params, kept, strict=True):
            p.copy_(old)
    expected = [
        max(np.mean([unlearned[e.key] - base[e.key] for e in rows[r] if e.flip is flip]) for flip in (False, True))
        for r in records
    ]
    mean_loss = np.mean(list(base.values()))
    assert ours.records == records
    assert np.abs(ours.score).max() > 100e-5 * mean_loss, "the step is too small for the comparison to mean anything"
    np.testing.assert_allclose(ours.score, expected, atol=1e-5 * mean_loss)


def test_small_steps_give_the_first_order_product(tiny_model: DiffusersModel, encoded_digits: EncodedSet) -> None:
    """As alpha -> 0, tau -> (alpha / N) grad L(z)' F^-1 grad L(z^)."""
    weights = select_weights(tiny_model.denoiser, "cross-attn-kv")
    records = encoded_digits.records
    draws = fisher_draws(encoded_digits, records, (False,), 2, SEED, 1000)
    fisher = fisher_sums(tiny_model, encoded_digits, weights, draws, seed=SEED, batch_size=16).mean()
    picture = Picture("query", encoded_digits.latents([7], [False])[0], encoded_digits.text_states([1]))
    batches = unlearning.gradient_batches(picture, samples=32, seed=SEED, train_timesteps=1000, batch_size=16)
    gradient = unlearning.query_gradient(tiny_model, weights, batches)
    direction = unlearning.newton_direction(gradient, damped_inverse(fisher, 0.1))
    probe = unlearning.probe_batches(picture, samples=16, seed=SEED, train_timesteps=1000, batch_size=16)
    step = unlearning.step_by_effect(
        tiny_model, weights, gradient, direction, probe, records=len(records), loss_ratio=1.0005
    )
    grid = midpoint_grid(1000, 4, 1, SEED)
    entries = encoded_digits.entries((False,))
    before = grid_losses(tiny_model, encoded_digits, entries, grid, batch_size=16)
    with shifted(weights, step.change):
        after = grid_losses(tiny_model, encoded_digits, entries, grid, batch_size=16)
    exact = record_scores(entries, before, after, grid)

    by_record = {record: [e for e in entries if e.record == record] for record in records}
    products = []
    for record in records:
        total = 0.0
        for entry in by_record[record]:
            own = Picture(
                entry.key,
                encoded_digits.latents([entry.position], [False])[0],
                encoded_digits.text_states([entry.text]),
            )
            samples = own.samples("loss", SEED, list(grid.timesteps), [0] * len(grid.timesteps))
            own_gradient = unlearning.query_gradient(tiny_model, weights, [samples])
            total += sum(float((own_gradient[n] * step.change[n].double()).sum()) for n in weights)
        products.append(total / len(by_record[record]))
    assert spearmanr(exact.score, products).statistic >= 0.98
    assert exact.score == pytest.approx(products, rel=0.2, abs=2e-6)
