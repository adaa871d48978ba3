"""A change of the user's own model is seen without reading it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from unsee.errors import InputError
from unsee.params import load_params
from unsee.steps.train_reference import outside


def test_any_change_of_the_users_folder_shows(pipeline_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(pipeline_folder, folder)
    params = load_params(None, {"model.path": str(folder)})
    seen = [outside(params)]
    assert outside(params) == seen[0]
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    then = weights.stat().st_mtime_ns
    os.utime(weights, ns=(then, then + 1_000_000))
    seen.append(outside(params))
    weights.write_bytes(weights.read_bytes() + b" ")
    os.utime(weights, ns=(then, then))
    seen.append(outside(params))
    (folder / "unsee.json").unlink()
    seen.append(outside(params))
    assert all(a != b for n, a in enumerate(seen) for b in seen[:n])
    shutil.rmtree(folder / "unet")
    with pytest.raises(InputError, match="unet"):
        outside(params)
