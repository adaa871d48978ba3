"""Runs one step as a task, counts what passes through the network, and ends itself by SIGKILL where it is told to."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from unsee.models.pipeline import DiffusersModel
from unsee.steps.registry import STEPS
from unsee.steps.task import run_task


class Output(SimpleNamespace):
    """An output as Kubeflow hands it over."""

    def log_metric(self, metric: str, value: float) -> None:
        self.metadata[metric] = value


def main() -> None:
    """Take the order from a file: step, params, inputs, out, part, counted, limit."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    counted, limit = Path(order["counted"]), order["limit"]
    denoise, passed = DiffusersModel.denoise, 0

    def counting(self: DiffusersModel, noisy: Tensor, *arguments: Any) -> Tensor:
        nonlocal passed
        passed += len(noisy)
        counted.write_text(str(passed))
        if limit is not None and passed > limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return denoise(self, noisy, *arguments)

    DiffusersModel.denoise = counting  # type: ignore[method-assign]
    inputs = {name: Output(path=path, metadata={}) for name, path in order["inputs"].items()}
    outputs = [Output(path=order[name], metadata={}) for name in ("out", "metrics")]
    run_task(STEPS[order["step"]].run, order["params"], inputs, outputs[0], outputs[1], order["part"])


if __name__ == "__main__":
    main()
