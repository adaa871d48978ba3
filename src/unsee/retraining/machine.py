"""What the rounding of a training depends on besides its recipe."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from unsee.params import TrainParams
from unsee.processors import usable_processors

_LIBRARIES = ("torch", "diffusers", "numpy", "scipy")
_CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """Equal machines train equal weights from the same recipe, bit for bit (on CPUs; GPUs sum in no fixed order).

    Attributes:
        device: "cpu", or the GPU's name.
        cpu: the processor's name and the instructions that torch uses of it.
        processes: how many train together.
        threads: of each.
        libraries: versions by name.
    """

    device: str
    cpu: str
    processes: int
    threads: int
    libraries: Mapping[str, str]

    def facts(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Machine:
        """The inverse of `facts`. Raises KeyError or TypeError where it is something else."""
        return cls(**{**facts, "libraries": dict(facts["libraries"])})


def here(device: torch.device, processes: int, threads: int) -> Machine:
    """What a training with so many processes and threads finds here."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    cpu = f"{_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"
    return Machine(name, cpu, processes, threads, {library: version(library) for library in _LIBRARIES})


def machine_for(train: TrainParams, device: torch.device) -> Machine:
    """How a training runs here: as many processes as asked for, as far as there are cores and samples in a batch."""
    cores = usable_processors()
    if device.type != "cpu":
        return here(device, 1, torch.get_num_threads())
    processes = max(1, min(train.processes, cores, train.vae_batch_size, train.unet_batch_size))
    return here(device, processes, max(1, min(cores // processes, torch.get_num_threads())))


def _cpu_name() -> str:
    try:
        lines = _CPU_FACTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
