"""The pictures that are asked about, as the audited model sees them.

A `QuerySet` folder holds `queries.parquet` (a row per query: prompt, picture, where it came from, or why it failed) and
safetensors with one latent and one set of text states per usable query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file
from torch import Tensor

from unsee import artifacts

KIND = "QuerySet"
SCHEMA_VERSION = 1

_SCHEMA = pa.schema(
    [
        ("query", pa.string()),
        ("prompt", pa.string()),
        ("png", pa.binary()),
        ("source", pa.string()),
        ("seed", pa.int64()),
        ("guidance", pa.float64()),
        ("steps", pa.int32()),
        ("failure", pa.string()),
    ]
)


@dataclass(frozen=True)
class Query:
    """One picture that is asked about, with the prompt it came from.

    Attributes:
        query: the id, from prompt and pixels (or from prompt and file name where the picture cannot be read).
        png: the picture at the model's resolution; None where it failed.
        source: the picture file, for one that was given; None for one that was generated.
        seed, guidance, steps: how it was generated; None for one that was given.
        failure: why it cannot be attributed; None for a usable one.
    """

    query: str
    prompt: str
    png: bytes | None
    source: str | None
    seed: int | None
    guidance: float | None
    steps: int | None
    failure: str | None


class QuerySet:
    """Queries with latents [C, h, w] and text states by query id."""

    def __init__(self, folder: Path, header: artifacts.Header) -> None:
        self.folder = folder
        self.digest = header.digest
        self.meta = header.meta
        self.queries = [Query(**row) for row in pq.read_table(folder / artifacts.QUERIES, schema=_SCHEMA).to_pylist()]
        usable = [q.query for q in self.queries if q.failure is None]
        latents = load_file(folder / artifacts.LATENTS).get("latents")
        texts = load_file(folder / artifacts.TEXTS)
        self._row = {query: row for row, query in enumerate(usable)}
        self._latents = latents
        self._texts = texts

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> QuerySet:
        """Open a query set; raises `ArtifactError` where it is missing, corrupt or of another version."""
        return cls(folder, artifacts.read_header(folder, KIND, SCHEMA_VERSION, verify=verify))

    def latent(self, query: str) -> Tensor:
        """The query's latent, [C, h, w]."""
        assert self._latents is not None  # noqa: S101  (a usable query has a latent, see `write`)
        return self._latents[self._row[query]]

    def text(self, query: str) -> Mapping[str, Tensor]:
        """The prompt's states, first axis of length 1."""
        row = self._row[query]
        return {name: states[row : row + 1] for name, states in self._texts.items()}


def write(part: Path, queries: Sequence[Query], latents: Tensor | None, texts: Mapping[str, Tensor]) -> None:
    """Fill a QuerySet folder; `latents` and `texts` have a row per usable query, in order."""
    pq.write_table(pa.Table.from_pylist([asdict(q) for q in queries], _SCHEMA), part / artifacts.QUERIES)
    save_file({} if latents is None else {"latents": latents.contiguous()}, part / artifacts.LATENTS)
    save_file({name: states.contiguous() for name, states in texts.items()}, part / artifacts.TEXTS)


def query_id(prompt: str, picture: str) -> str:
    """A query's id: 16 hex digits of the sha256 over prompt and `picture` (a pixel digest, or a file name)."""
    return hashlib.sha256(f"{picture}\n{prompt}".encode()).hexdigest()[:16]
