"""After a helping process died the same program can train again, and nothing global is left changed."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from dying import in_training
from unsee.errors import EnvironmentProblem
from unsee.params import Params
from unsee.records.training_set import TrainingSet
from unsee.retraining import group
from unsee.retraining.reference import train_reference


@pytest.mark.slow
def test_training_again_after_a_helper_died(
    few_digits: TrainingSet, small: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    two = small.model_copy(update={"train": small.train.model_copy(update={"processes": 2})})
    torch.set_num_threads(3)
    try:
        for target in (os._exit, in_training):
            with monkeypatch.context() as patched:
                patched.setattr(group, "_help", target)
                with pytest.raises(EnvironmentProblem, match=r"train.processes: a process that trains along died"):
                    train_reference(few_digits, two, tmp_path / "work", tmp_path / "pipeline")
            assert not (tmp_path / "pipeline").exists()
            assert torch.get_num_threads() == 3
        assert not torch.distributed.is_initialized()
        curves = train_reference(few_digits, two, tmp_path / "work", tmp_path / "pipeline")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert curves["denoiser_loss"][-1][0] == 6
    assert not torch.distributed.is_initialized()
    assert not multiprocessing.active_children()
