"""How well a ranking finds what it should. Knows no method."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np


def recall_at_k(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Share of `relevant` among the first k of `ranking`, in [0, 1].

    Raises:
        ValueError: nothing is relevant, or k is not positive.
    """
    if not relevant:
        raise ValueError("recall needs at least one relevant record")
    if k < 1:
        raise ValueError(f"k must be positive, not {k}")
    return len(set(ranking[:k]) & set(relevant)) / len(set(relevant))


def ranking_of(scores: np.ndarray, records: Sequence[str]) -> list[str]:
    """Record ids, largest score first; ties by id."""
    return [records[i] for i in sorted(range(len(records)), key=lambda i: (-scores[i], records[i]))]


def nearest(queries: np.ndarray, records: np.ndarray) -> np.ndarray:
    """For every query embedding [Q, d] the row of the record embedding [N, d] with the largest cosine, [Q] int64."""
    one = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    other = records / np.linalg.norm(records, axis=1, keepdims=True)
    result: np.ndarray = (one @ other.T).argmax(axis=1)
    return result
