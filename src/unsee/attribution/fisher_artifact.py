"""The Fisher information as an artifact, and its shards as cache entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file, save, save_file

from unsee import artifacts
from unsee.artifacts import digest_of
from unsee.attribution.fisher import FisherSums, merge
from unsee.versions import ENCODING_VERSION, FISHER_VERSION, NOISE_VERSION

KIND = "Fisher"
SCHEMA_VERSION = 2
SUFFIX = ".safetensors"
_COUNT = "count"


class Fisher:
    """Sums of squared gradients and their count, by parameter name, over `records` records."""

    def __init__(self, folder: Path, parts: artifacts.Parts) -> None:
        self.folder = folder
        self.digest = parts.digest
        self.meta = parts.meta
        self.records = sum(int(meta["counts"]["records"]) for meta in parts.metas)
        self.sums = merge([_from_tensors(load_file(path / artifacts.FISHER)) for path in parts.folders])

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> Fisher:
        """Open a Fisher, or its parts; `ArtifactError` where one is missing, corrupt or of another version."""
        return cls(folder, artifacts.read_parts(folder, KIND, SCHEMA_VERSION, verify=verify))


def write_fisher(part: Path, sums: FisherSums) -> None:
    """Fill a Fisher folder."""
    save_file(_to_tensors(sums), part / artifacts.FISHER)


def shard_place(
    model_digest: str, weights: Sequence[str], entries: Sequence[str], *, draws: int, seed: int, dtype: str
) -> str:
    """Where in the cache a shard's sums live.

    Args:
        entries: keys of all entries of the shard's records.
    """
    spec = {
        "fisher_version": FISHER_VERSION,
        "noise_version": NOISE_VERSION,
        "encoding_version": ENCODING_VERSION,
        "model": model_digest,
        "weights": list(weights),
        "entries": sorted(entries),
        "draws": draws,
        "seed": seed,
        "dtype": dtype,
    }
    return f"fisher/{digest_of(spec)}"


def sums_to_bytes(sums: FisherSums) -> bytes:
    """The sums as a safetensors file."""
    data: bytes = save(_to_tensors(sums))
    return data


def sums_from_bytes(data: bytes) -> FisherSums:
    """The inverse of `sums_to_bytes`."""
    return _from_tensors(load(data))


def _to_tensors(sums: FisherSums) -> dict[str, torch.Tensor]:
    return {**sums.sums, _COUNT: torch.tensor([sums.count])}


def _from_tensors(tensors: Mapping[str, Any]) -> FisherSums:
    return FisherSums({n: t for n, t in tensors.items() if n != _COUNT}, int(tensors[_COUNT]))
