"""Safetensors files that are filled row by row, in any order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor


class RowFile:
    """A safetensors file of float32 tensors, [rows, *shape] each, whose size never changes.

    Args:
        path: the file, to be made with `create`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        starts = {name: 8 + size + int(entry["data_offsets"][0]) for name, entry in header.items()}
        self._starts: Mapping[str, int] = starts

    @classmethod
    def create(cls, path: Path, names: Sequence[str], rows: int, shape: Sequence[int]) -> RowFile:
        """A file of zeros."""
        save_file({name: torch.zeros(rows, *shape) for name in names}, path)
        return cls(path)

    def write(self, name: str, rows: np.ndarray, values: Tensor) -> None:
        """Put `values`, [n, *shape], in the places `rows`, [n]."""
        data = np.ascontiguousarray(values.numpy(), dtype="<f4")
        with self._path.open("r+b") as file:
            for row, value in zip(rows.tolist(), data, strict=True):
                file.seek(self._starts[name] + row * value.nbytes)
                file.write(value.tobytes())
