"""Attribution by similarity: what a ranking by resemblance alone would answer.

Every baseline maps a query to one score per record, larger for more similar, in the order of its records.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class LatentPixelSimilarity:
    """Negative mean squared distance between latents.

    Args:
        records: latents, [N, C, h, w].
        queries: latents, [Q, C, h, w].
    """

    name = "latent_pixel"

    def __init__(self, records: np.ndarray, queries: np.ndarray) -> None:
        self._records = records.reshape(len(records), -1).astype(np.float64)
        self._queries = queries.reshape(len(queries), -1).astype(np.float64)

    def scores(self, query: int) -> np.ndarray:
        """-mean (z - z^)^2, [N]."""
        result: np.ndarray = -np.square(self._records - self._queries[query]).mean(axis=1)
        return result


class CosineSimilarity:
    """Cosine similarity between embeddings; a record with several captions counts by its nearest one.

    Args:
        name: the baseline's name ("text", "encoder").
        records: embeddings, [R, d], one row or more per record.
        owners: for every row of `records`, the record's position in [0, N).
        queries: embeddings, [Q, d].
    """

    def __init__(self, name: str, records: np.ndarray, owners: Sequence[int], queries: np.ndarray) -> None:
        self.name = name
        self._records = normalised(records)
        self._owners = np.asarray(owners)
        self._queries = normalised(queries)

    def scores(self, query: int) -> np.ndarray:
        """Max over the record's rows of cos(e, e^), [N]."""
        similarity = self._records @ self._queries[query]
        best = np.full(int(self._owners.max()) + 1, -np.inf)
        np.maximum.at(best, self._owners, similarity)
        return best


def normalised(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length, float64; a zero row stays zero."""
    wide = rows.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    result: np.ndarray = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    return result
