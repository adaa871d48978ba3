"""Optimisers whose state is plain tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the quintic iteration that drives singular values to about 1 (Jordan et al., "Muon", 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix of updates is made orthogonal; convolutions count as matrices [out, in * kernel].

    It is what makes a small autoencoder sharp within a minute: torch's own Muon takes 2-D parameters only.

    Args:
        params: parameters of two dimensions or more.
        lr: learning rate; updates are scaled to the size that Adam's have.
        momentum: of the Nesterov average of gradients.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update; `closure` is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                average = state["average"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(average, group["momentum"]).flatten(1)
                size = 0.2 * max(update.shape) ** 0.5
                parameter.add_(orthogonal(update).view_as(parameter), alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values come out between about 0.7 and 1.2."""
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    result: Tensor = x.mT if matrix.shape[0] > matrix.shape[1] else x
    return result


def adam(parameters: Iterable[nn.Parameter], rate: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """AdamW with a short memory of squared gradients, as short trainings need."""
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay)


def muon_with_adam(module: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for matrices and convolutions, Adam for biases and norms."""
    parameters = list(module.parameters())
    return [Muon([p for p in parameters if p.dim() >= 2], rate), adam([p for p in parameters if p.dim() < 2], rate)]


def state_tensors(optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The whole state, by "<optimiser>.<parameter>.<name>"."""
    tensors = {}
    for number, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"{number}.{index}.{name}"] = torch.as_tensor(value)
    return tensors


def load_state_tensors(optimisers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `state_tensors`, for optimisers over the same parameters."""
    for number, optimiser in enumerate(optimisers):
        whole = optimiser.state_dict()
        whole["state"] = {}
        for key, value in tensors.items():
            owner, index, name = key.split(".")
            if int(owner) == number:
                whole["state"].setdefault(int(index), {})[name] = value.clone()
        optimiser.load_state_dict(whole)
