"""Training records as one model sees them: latents, and the states of every distinct caption.

An `EncodedSet` folder holds `captions.parquet` (a row per record and caption), `texts.safetensors` (a row per distinct
caption) and latents in files of a few thousand records, memory-mapped when read. With flips, the mirrored *picture*
is encoded too: an encoder does not commute with mirroring.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from unsee import artifacts
from unsee.errors import InputError
from unsee.models.encoding_cache import RowCache
from unsee.models.interface import TextStates, TextToImageModel
from unsee.models.row_files import RowFile
from unsee.records.identity import caption_digest
from unsee.records.training_set import TrainingSet

KIND = "EncodedSet"
SCHEMA_VERSION = 1
RECORDS_PER_FILE = 4096
_PICTURES_PER_BATCH = 64
_PICTURES_PER_READ = 256
_TEXTS_PER_BATCH = 64

_CAPTIONS_SCHEMA = pa.schema(
    [("record", pa.string()), ("caption_digest", pa.string()), ("text", pa.int32()), ("position", pa.int32())]
)


@dataclass(frozen=True)
class Entry:
    """One (record, caption, flip), the row of a loss table.

    Attributes:
        record: the record's id.
        position: the record's place in the set.
        caption: sha256 of the caption.
        text: the caption's row among the text states.
        flip: whether the mirrored picture is meant.
    """

    record: str
    position: int
    caption: str
    text: int
    flip: bool

    @property
    def key(self) -> str:
        """The entry's name in caches; it does not depend on the set that the record is in."""
        return f"{self.record}|{self.caption}|{'mirrored' if self.flip else 'plain'}"


class Entries(Sequence[Entry]):
    """Rows of a loss table, kept as columns: a few hundred bytes per row, and no object until one is looked at.

    Attributes:
        records: record ids, [n] Arrow strings.
        captions: sha256 of the captions, [n] Arrow strings.
        positions, texts, flips: see `Entry`, [n] arrays.
    """

    def __init__(
        self, records: pa.Array, captions: pa.Array, positions: np.ndarray, texts: np.ndarray, flips: np.ndarray
    ) -> None:
        self.records = records
        self.captions = captions
        self.positions = positions
        self.texts = texts
        self.flips = flips

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Entries:
        """The same entries as columns."""
        rows = list(entries)
        return cls(
            pa.array([e.record for e in rows], pa.string()),
            pa.array([e.caption for e in rows], pa.string()),
            np.array([e.position for e in rows], dtype=np.int32),
            np.array([e.text for e in rows], dtype=np.int32),
            np.array([e.flip for e in rows], dtype=bool),
        )

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Entry: ...

    @overload
    def __getitem__(self, index: slice) -> Entries: ...

    def __getitem__(self, index: int | slice) -> Entry | Entries:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row = range(len(self))[index]
        return Entry(
            self.records[row].as_py(),
            int(self.positions[row]),
            self.captions[row].as_py(),
            int(self.texts[row]),
            bool(self.flips[row]),
        )

    def take(self, rows: np.ndarray) -> Entries:
        """The entries at `rows`, in that order."""
        index = pa.array(rows, pa.int64())
        return Entries(
            self.records.take(index),
            self.captions.take(index),
            self.positions[rows],
            self.texts[rows],
            self.flips[rows],
        )

    def keys(self) -> pa.Array:
        """`Entry.key` of every row, [n] Arrow strings."""
        kinds = pa.array(["plain", "mirrored"]).take(pa.array(self.flips.astype(np.int8)))
        return pc.binary_join_element_wise(self.records, self.captions, kinds, "|")


class EncodedSet:
    """Latents and text states of a training set, read from disk on demand."""

    def __init__(self, folder: Path, header: artifacts.Header) -> None:
        self.folder = folder
        self.digest = header.digest
        self.meta = header.meta
        table = pq.read_table(folder / artifacts.CAPTIONS, schema=_CAPTIONS_SCHEMA).combine_chunks()
        self._rows = Entries(
            _plain(table.column("record")),
            _plain(table.column("caption_digest")),
            table.column("position").to_numpy(),
            table.column("text").to_numpy(),
            np.zeros(len(table), dtype=bool),
        )
        self.texts: TextStates = load_file(folder / artifacts.TEXTS)
        self._files: dict[tuple[int, bool], Any] = {}

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> EncodedSet:
        """Open an encoded set; raises `ArtifactError` where it is missing, corrupt or of another version."""
        return cls(folder, artifacts.read_header(folder, KIND, SCHEMA_VERSION, verify=verify))

    @functools.cached_property
    def records(self) -> list[str]:
        """Record ids in the set's order."""
        found: list[str] = pc.unique(self._rows.records).to_pylist()
        return found

    def __len__(self) -> int:
        return int(pc.count_distinct(self._rows.records).as_py())

    def entries(self, flips: Sequence[bool], records: set[str] | None = None) -> Entries:
        """Every (record, caption, flip), of all records or of those given, in the set's order."""
        rows = np.arange(len(self._rows))
        if records is not None:
            wanted = pa.array(sorted(records), pa.string())
            rows = rows[pc.is_in(self._rows.records, wanted).to_numpy(zero_copy_only=False)]
        found = self._rows.take(np.repeat(rows, len(flips)))
        found.flips = np.tile(np.array(flips, dtype=bool), len(rows))
        return found

    def latents(self, positions: Sequence[int], flips: Sequence[bool]) -> Tensor:
        """Latents of the records at `positions`, [n, C, h, w] float32, mirrored ones where `flips` says so."""
        rows = []
        for position, flip in zip(positions, flips, strict=True):
            number, row = divmod(position, RECORDS_PER_FILE)
            rows.append(self._slice(number, flip)[row])
        return torch.stack(rows)

    def text_states(self, rows: Sequence[int]) -> TextStates:
        """Text states at `rows`, [n, ...] each."""
        index = torch.as_tensor(rows)
        return {name: states[index] for name, states in self.texts.items()}

    def _slice(self, number: int, flip: bool) -> Any:
        held = self._files.get((number, flip))
        if held is None:
            if flip and not self.meta["flips"]:
                raise InputError("was encoded without mirrored pictures.", file=self.folder, remedy="Encode it again.")
            # The tensor is a view of the mapped file: pages are read when touched and can be dropped again.
            with safe_open(self.folder / latents_file(number), framework="pt") as file:
                held = file.get_tensor("mirrored" if flip else "plain")
            self._files[number, flip] = held
        return held


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """A table's column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def latents_file(number: int) -> str:
    """Name of the `number`-th latents file."""
    stem, suffix = artifacts.LATENTS.split(".")
    return f"{stem}-{number:05d}.{suffix}"


def encode_training_set(
    model: TextToImageModel,
    training_set: TrainingSet,
    part: Path,
    *,
    flips: bool,
    advance: Callable[[int], None] = lambda _: None,
    latents: RowCache | None = None,
    texts: RowCache | None = None,
) -> dict[str, Any]:
    """Encode every record into the folder `part`; returns the header's metadata.

    What the caches do not hold is encoded, and kept in them a file at a time: a killed run goes on from there.

    Args:
        flips: also encode the mirrored pictures.
        advance: told the number of records done.
        latents, texts: where encodings by the same autoencoder, and by the same text encoder, are kept.

    Raises:
        InputError: the training set's resolution is not the model's.
    """
    if training_set.resolution != model.resolution:
        raise InputError(
            f"holds pictures of {training_set.resolution} pixels, the model draws {model.resolution}.",
            file=training_set.folder,
            field="data.resolution",
            remedy=f"Set data.resolution to {model.resolution}.",
        )
    rows: dict[str, int] = {}
    captions: list[dict[str, Any]] = []
    for position, record in enumerate(training_set.records):
        for caption in record.captions:
            text = rows.setdefault(caption, len(rows))
            digest = caption_digest(caption)
            captions.append({"record": record.record, "caption_digest": digest, "text": text, "position": position})
    pq.write_table(pa.Table.from_pylist(captions, _CAPTIONS_SCHEMA), part / artifacts.CAPTIONS)
    save_file(_encode_texts(model, list(rows), texts), part / artifacts.TEXTS)
    _encode_pictures(model, training_set, part, ("plain", "mirrored") if flips else ("plain",), latents, advance)
    return {
        "model": model.digest,
        "training_set": training_set.digest,
        "records": len(training_set),
        "captions": len(rows),
        "flips": flips,
    }


def pixels_to_unit(pixels: np.ndarray) -> Tensor:
    """uint8 [n, H, W, 3] as float32 [n, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _encode_texts(model: TextToImageModel, captions: Sequence[str], cache: RowCache | None) -> dict[str, Tensor]:
    """States of all captions, [n, ...] each."""
    ids = [caption_digest(caption) for caption in captions]
    blocks = list(cache.find(ids)) if cache else []
    missing = np.ones(len(ids), dtype=bool)
    for places, _ in blocks:
        missing[places] = False
    for places in _batches(np.flatnonzero(missing), _TEXTS_PER_BATCH):
        states = dict(model.encode_texts([captions[place] for place in places]))
        if cache:
            cache.add([ids[place] for place in places], states)
        blocks.append((places, states))
    if cache:
        cache.flush()
    joined = {name: states.new_empty(len(ids), *states.shape[1:]) for name, states in blocks[0][1].items()}
    for places, held in blocks:
        for name, rows in held.items():
            joined[name][torch.from_numpy(places)] = rows
    return joined


def _encode_pictures(
    model: TextToImageModel,
    training_set: TrainingSet,
    part: Path,
    kinds: Sequence[str],
    cache: RowCache | None,
    advance: Callable[[int], None],
) -> None:
    """Fill the latents files with what the cache holds and with what is encoded now."""
    count = len(training_set)
    sizes = [min(RECORDS_PER_FILE, count - start) for start in range(0, count, RECORDS_PER_FILE)]
    files = [RowFile.create(part / latents_file(i), kinds, size, model.latent_shape) for i, size in enumerate(sizes)]

    def write(kind: str, places: np.ndarray, latents: Tensor) -> None:
        numbers, rows = np.divmod(places, RECORDS_PER_FILE)
        for number in np.unique(numbers):
            mine = numbers == number
            files[number].write(kind, rows[mine], latents[torch.from_numpy(mine)])

    ids = {kind: [f"{record.record}|{kind}" for record in training_set.records] for kind in kinds}
    missing = {kind: np.ones(count, dtype=bool) for kind in kinds}
    for kind in kinds:
        for places, rows in cache.find(ids[kind]) if cache else ():
            write(kind, places, rows["latents"])
            missing[kind][places] = False
    needed = np.flatnonzero(np.any(list(missing.values()), axis=0))
    advance(count - len(needed))
    for places, pixels in _pixels_at(training_set, needed):
        unit = pixels_to_unit(pixels)
        for kind in kinds:
            chosen = np.flatnonzero(missing[kind][places])
            if len(chosen):
                plain = unit[torch.from_numpy(chosen)]
                latents = model.encode_pictures(plain.flip(-1) if kind == "mirrored" else plain)
                write(kind, places[chosen], latents)
                if cache:
                    cache.add([ids[kind][place] for place in places[chosen]], {"latents": latents})
        advance(len(places))
    if cache:
        cache.flush()


def _pixels_at(training_set: TrainingSet, places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of (places, pixels uint8 [n, H, W, 3]) of the records at `places`."""
    for read in _batches(places, _PICTURES_PER_READ):
        records = [training_set.records[place].record for place in read]
        pictures = training_set.pictures(records)
        for batch in _batches(np.arange(len(read)), _PICTURES_PER_BATCH):
            yield read[batch], np.stack([_decoded(pictures[records[row]]) for row in batch])


def _decoded(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def _batches(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
