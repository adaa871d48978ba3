"""The base of everything that a report holds: numbers that are not finite are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any


class Checked:
    """Refuses numbers that are not finite, however deep they sit; subclasses add their own ranges."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            _require_finite(f"{type(self).__name__}.{field.name}", getattr(self, field.name))
        self._check()

    def _check(self) -> None:
        """Raises ValueError where a field is out of its range."""


def require(holds: bool, problem: str) -> None:
    """Raises ValueError with `problem` unless it holds."""
    if not holds:
        raise ValueError(problem)


def _require_finite(where: str, value: Any) -> None:
    if isinstance(value, float):
        require(math.isfinite(value), f"{where} is {value}")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _require_finite(f"{where}.{key}", inner)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for index, inner in enumerate(value):
            _require_finite(f"{where}[{index}]", inner)
