"""The optimisers do what they say, and their state survives as plain tensors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from unsee.retraining.optimisers import Muon, load_state_tensors, muon_with_adam, orthogonal, state_tensors


@given(
    rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 1000), size=st.sampled_from([1e-3, 1e3])
)
def test_orthogonal_keeps_the_singular_vectors_and_levels_the_values(
    rows: int, columns: int, seed: int, size: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    u, _, vh = torch.linalg.svd(torch.randn(rows, columns, generator=draw), full_matrices=False)
    values = torch.linspace(0.2, 1.0, min(rows, columns))
    core = u.mT @ orthogonal(u @ torch.diag(values * size) @ vh) @ vh.mT
    assert (core.diagonal() > 0.6).all()
    assert (core.diagonal() < 1.3).all()
    assert (core - torch.diag(core.diagonal())).abs().max() < 1e-3


def test_orthogonal_of_nothing_is_nothing() -> None:
    assert torch.equal(orthogonal(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_an_update_is_as_large_as_adams() -> None:
    """Root mean square of about 0.2 times the learning rate, whatever the shape and the gradient's size."""
    for shape in [(64, 256), (256, 64), (32, 16, 3, 3)]:
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-4
        Muon([weight], lr=0.5).step()
        assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.5 * 0.2, rel=0.3)


def small_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 9, 2))


def train(network: nn.Module, optimisers: list[torch.optim.Optimizer], steps: range) -> float:
    loss = torch.zeros(())
    for step in steps:
        inputs = torch.randn(16, 2, 3, 3, generator=torch.Generator().manual_seed(step))
        loss = (network(inputs) - inputs.sum(dim=(2, 3))).square().mean()
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
    return loss.item()


def test_training_learns() -> None:
    network = small_network()
    optimisers = muon_with_adam(network, 0.01)
    first = train(network, optimisers, range(1))
    assert train(network, optimisers, range(1, 200)) < 0.05 * first


def test_state_goes_on_bit_for_bit() -> None:
    whole, halves = small_network(), small_network()
    train(whole, muon_with_adam(whole, 0.01), range(8))
    first = muon_with_adam(halves, 0.01)
    train(halves, first, range(4))
    tensors = {name: value.clone() for name, value in state_tensors(first).items()}
    second = muon_with_adam(halves, 0.01)
    load_state_tensors(second, tensors)
    train(halves, second, range(4, 8))
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b)
