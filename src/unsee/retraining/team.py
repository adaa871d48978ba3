"""Data-parallel training: a few processes that each take every n-th position of a batch and add up their gradients."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore

_PATIENCE = datetime.timedelta(minutes=10)


class Team:
    """The processes that train together, as one of them sees it; with a size of 1 nothing is communicated.

    Attributes:
        rank: of this process, from 0; 0 leads: it alone writes files and shows progress.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Path | None = None) -> None:
        self.rank = rank
        self.size = size
        if size > 1:
            if sys.platform == "linux":
                # The processes are on one machine: nothing needs to be reachable from outside.
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            dist.init_process_group(
                "gloo", store=FileStore(str(store), size), rank=rank, world_size=size, timeout=_PATIENCE
            )

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def positions(self, batch_size: int) -> slice:
        """The positions of a batch that this process takes: spread evenly, since timesteps are ordered by position."""
        return slice(self.rank, batch_size, self.size)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over the processes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            dist.barrier()

    def part(self) -> None:
        """Leave the group."""
        if self.size > 1:
            dist.destroy_process_group()
