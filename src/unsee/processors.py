"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def usable_processors(group: Path = _GROUP) -> int:
    """Processors that the affinity and the container's quota leave, at least one.

    Args:
        group: where the kernel shows the control group.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(group)
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def _quota(group: Path) -> float | None:
    """Processors' worth of time per time, of control groups version 2 or 1; None where there is no limit."""
    for read in (_second_version, _first_version):
        try:
            limit, period = read(group)
        except (OSError, ValueError):
            continue
        return limit / period if limit > 0 and period > 0 else None
    return None


def _second_version(group: Path) -> tuple[float, float]:
    limit, period = (group / "cpu.max").read_text(encoding="ascii").split()
    return (0.0 if limit == "max" else float(limit)), float(period)


def _first_version(group: Path) -> tuple[float, float]:
    folder = group / "cpu"
    limit, period = (float((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period"))
    return limit, period
