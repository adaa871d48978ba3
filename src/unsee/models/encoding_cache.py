"""Encodings as cache entries that are looked up record by record and caption by caption.

A place holds files of many rows, `<digest of their ids>-<sha256>.safetensors`, and for each of them a small
`index-<sha256>.parquet` that says which ids it holds: only files that hold a wanted row are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import load, save
from torch import Tensor

from unsee.artifacts import digest_of
from unsee.cache import ContentCache
from unsee.versions import ENCODING_VERSION

BYTES_PER_FILE = 32 << 20

_INDEX, _INDEX_SUFFIX, _SUFFIX = "index", ".parquet", ".safetensors"
_SCHEMA = pa.schema([("id", pa.string()), ("file", pa.string()), ("row", pa.int32())])


class RowCache:
    """Rows of named tensors by id, in one place of a cache.

    Args:
        place: everything that determines a row, except its id; see `latents_place` and `texts_place`.
    """

    def __init__(self, cache: ContentCache, place: str) -> None:
        self._cache = cache
        self._place = place
        self._ids: list[str] = []
        self._held: list[Mapping[str, Tensor]] = []
        self._bytes = 0

    def find(self, ids: Sequence[str]) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """The rows that are there, file by file: (places in `ids`, the rows in that order); each id at most once."""
        held = self._cache.read_all(self._place, _INDEX_SUFFIX)
        tables = [pq.read_table(pa.BufferReader(data), schema=_SCHEMA) for data in held]
        index = pa.concat_tables([_SCHEMA.empty_table(), *tables]).combine_chunks()
        where = pc.index_in(pa.array(ids, pa.string()), index.column("id"))
        wanted = np.flatnonzero(where.is_valid().to_numpy(zero_copy_only=False))
        entries = index.take(where.drop_null())
        files, rows = entries.column("file").to_numpy(), entries.column("row").to_numpy()
        for name in sorted(set(files)):
            # None where the file was damaged or removed: its rows count as not there.
            data = self._cache.read(self._place, name, _SUFFIX)
            if data is not None:
                mine = files == name
                picked = rows[mine].tolist()
                yield wanted[mine], {key: tensor[picked] for key, tensor in load(data).items()}

    def add(self, ids: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        """Keep rows, [len(ids), ...] each; they are written when there are enough for a file, or with `flush`.

        Rows of which one is not finite are left out: what went wrong here need not go wrong elsewhere.
        """
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            return
        self._ids += ids
        self._held.append(tensors)
        self._bytes += sum(tensor.nbytes for tensor in tensors.values())
        if self._bytes >= BYTES_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if not self._ids:
            return
        name = digest_of(self._ids)
        joined = {key: torch.cat([tensors[key] for tensors in self._held]).contiguous() for key in self._held[0]}
        self._cache.write(self._place, name, save(joined), _SUFFIX)
        columns = [self._ids, [name] * len(self._ids), range(len(self._ids))]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], _SCHEMA), sink)
        # The index comes last: what it says is there.
        self._cache.write(self._place, _INDEX, sink.getvalue().to_pybytes(), _INDEX_SUFFIX)
        self._ids, self._held, self._bytes = [], [], 0


def latents_place(autoencoder: str, resolution: int) -> str:
    """Where in a cache latents live, by record id and `|plain` or `|mirrored`.

    Args:
        autoencoder: sha256 over its files.
        resolution: pixels, both sides, of the pictures.
    """
    spec = {"encoding_version": ENCODING_VERSION, "autoencoder": autoencoder, "resolution": resolution}
    return f"latents/{digest_of(spec)}"


def texts_place(text_encoder: Sequence[str], pipeline: str) -> str:
    """Where in a cache captions' states live, by the caption's digest.

    Args:
        text_encoder: sha256 over the files of each part that makes states from captions.
        pipeline: the class that puts them together.
    """
    spec = {"encoding_version": ENCODING_VERSION, "text_encoder": list(text_encoder), "pipeline": pipeline}
    return f"texts/{digest_of(spec)}"
