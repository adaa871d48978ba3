"""The training loop that the autoencoder and the denoiser share: deterministic, data-parallel, resumable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unsee import artifacts
from unsee.retraining.optimisers import load_state_tensors, state_tensors
from unsee.retraining.team import Team

_TENSORS = "state.safetensors"
_FACTS = "state.json"
_CURVE_EVERY = 20
_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Checkpoints:
    """Where a training keeps its state, and how often.

    Attributes:
        folder: holds the newest checkpoint; written beside and renamed.
        every: steps between two.
        fingerprint: what the training depends on; a checkpoint of another one is not resumed.
    """

    folder: Path
    every: int
    fingerprint: str


@dataclass
class Progressed:
    """How far a training is: steps done, and its curve [(step, mean loss since the last point)]."""

    step: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)


def fit(
    module: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    loss_at: Callable[[int], Tensor | None],
    *,
    steps: int,
    rate_at: Callable[[int], float],
    team: Team,
    checkpoints: Checkpoints,
    average: nn.Module | None = None,
    decay: float = 0.0,
    advance: Callable[[int], None] = lambda _: None,
) -> list[tuple[int, float]]:
    """Train `module` in place, going on from the newest checkpoint; returns the curve.

    Args:
        loss_at: this process's part of a step's loss: the sum over its positions divided by the whole batch size. None
            where the batch is empty for every process: then nothing is updated.
        rate_at: learning rate of a step.
        average: holds the moving average of the weights, updated in place.
        decay: of that average; smaller in the first steps, so that the initial weights are soon forgotten.
        advance: told the number of steps done.
    """
    done = _resume(module, optimisers, average, checkpoints)
    advance(done.step)
    parameters = list(module.parameters())
    for step in range(done.step, steps):
        loss = loss_at(step)
        value = torch.zeros(1)
        if loss is not None:
            for optimiser in optimisers:
                optimiser.zero_grad(set_to_none=True)
                for group in optimiser.param_groups:
                    group["lr"] = rate_at(step)
            torch.autograd.backward(loss)
            value = loss.detach().cpu().reshape(1).clone()
            gradients = [p.grad for p in parameters if p.grad is not None]
            team.add_up([*gradients, value])
            nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT)
            for optimiser in optimisers:
                optimiser.step()
            if average is not None:
                _average(average, module, min(decay, (1 + step) / (10 + step)))
        done.step = step + 1
        done.pending.append(float(value))
        if done.step % _CURVE_EVERY == 0 or done.step == steps:
            done.curve.append((done.step, sum(done.pending) / len(done.pending)))
            done.pending = []
        if team.leads and done.step % checkpoints.every == 0 and done.step < steps:
            _save(module, optimisers, average, checkpoints, done)
        advance(1)
    return done.curve


def _average(average: nn.Module, module: nn.Module, decay: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)


def _save(
    module: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    average: nn.Module | None,
    checkpoints: Checkpoints,
    done: Progressed,
) -> None:
    part = checkpoints.folder.with_name(checkpoints.folder.name + ".part")
    with artifacts.disk_errors(checkpoints.folder, "--out or UNSEE_CHECKPOINTS"):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
        if average is not None:
            tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
        tensors |= {f"optimiser.{name}": value for name, value in state_tensors(optimisers).items()}
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, part / _TENSORS)
        facts = {
            "step": done.step,
            "curve": done.curve,
            "pending": done.pending,
            "fingerprint": checkpoints.fingerprint,
            "sha256": artifacts.file_sha256(part / _TENSORS),
        }
        artifacts.write_json(part / _FACTS, {"facts": facts, "digest": artifacts.digest_of(facts)})
        # A kill at any point leaves one whole checkpoint.
        old = _old(checkpoints.folder)
        shutil.rmtree(old, ignore_errors=True)
        if checkpoints.folder.exists():
            checkpoints.folder.rename(old)
        part.rename(checkpoints.folder)
        shutil.rmtree(old, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def _whole_facts(folder: Path) -> dict[str, Any] | None:
    """What a checkpoint says about itself; None where there is none, or it is not whole."""
    try:
        stated = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        facts: dict[str, Any] = stated["facts"]
        whole = stated["digest"] == artifacts.digest_of(facts)
        return facts if whole and facts["sha256"] == artifacts.file_sha256(folder / _TENSORS) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _resume(
    module: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    average: nn.Module | None,
    checkpoints: Checkpoints,
) -> Progressed:
    for folder in (checkpoints.folder, _old(checkpoints.folder)):
        facts = _whole_facts(folder)
        if facts is not None and facts["fingerprint"] == checkpoints.fingerprint:
            break
    else:
        return Progressed()
    tensors = load_file(folder / _TENSORS)

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    module.load_state_dict(under("module."))
    if average is not None:
        average.load_state_dict(under("average."))
    load_state_tensors(optimisers, under("optimiser."))
    return Progressed(int(facts["step"]), [(int(s), float(v)) for s, v in facts["curve"]], facts["pending"])
