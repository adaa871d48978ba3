"""The versioned training set: which records there are, what they look like, and what was left out and why.

A `TrainingSet` folder holds `manifest.parquet` (one row per record), `pictures.parquet` (the pixels each record is
trained at, PNG) and `quarantine.parquet` (files that could not become records). Everything downstream reads records
from it and from nowhere else, so its digest stands for the data.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from unsee import artifacts
from unsee.errors import InputError
from unsee.records.identity import occurrence_id, pixel_digest

KIND = "TrainingSet"
SCHEMA_VERSION = 1

_MANIFEST_SCHEMA = pa.schema(
    [
        ("record", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("group", pa.string()),
        ("license", pa.string()),
        ("source", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("duplicate_of", pa.string()),
        ("conversion", pa.string()),
        ("md5", pa.string()),
    ]
)
_PICTURE_SCHEMA = pa.schema([("record", pa.string()), ("png", pa.binary())])
_QUARANTINE_SCHEMA = pa.schema([("source", pa.string()), ("reason", pa.string())])
_PICTURES_PER_ROW_GROUP = 256


@dataclass(frozen=True)
class Record:
    """One training image with its captions.

    Attributes:
        record: the id: sha256 of the decoded pixels, and the occurrence number among exact duplicates.
        captions: one or more.
        group: who contributed it (artist, style, collection), if known.
        license: SPDX identifier or free text, if known.
        source: where it came from, relative to the data set ("noto/1f34e").
        width, height: of the decoded image, before it is brought to the training resolution.
        duplicate_of: id of the first record with the same pixels, if this is not the first.
        conversion: what was done to make it plain 8-bit RGB ("CMYK to RGB"), if anything was.
        md5: what DVC recorded for the file, if DVC tracks it.
    """

    record: str
    captions: tuple[str, ...]
    group: str | None
    license: str | None
    source: str
    width: int
    height: int
    duplicate_of: str | None
    conversion: str | None
    md5: str | None


@dataclass(frozen=True)
class Quarantined:
    """A file that could not become a record, and why."""

    source: str
    reason: str


class TrainingSet:
    """A training set on disk. Records are in manifest order; pixels are read when asked for."""

    def __init__(self, folder: Path, header: artifacts.Header) -> None:
        self.folder = folder
        self.digest = header.digest
        self.meta = header.meta
        rows = pq.read_table(folder / artifacts.MANIFEST, schema=_MANIFEST_SCHEMA).to_pylist()
        self.records = [Record(**{**row, "captions": tuple(row["captions"])}) for row in rows]
        lost = pq.read_table(folder / artifacts.QUARANTINE, schema=_QUARANTINE_SCHEMA).to_pylist()
        self.quarantine = [Quarantined(**row) for row in lost]
        self.index = {record.record: i for i, record in enumerate(self.records)}

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> TrainingSet:
        """Open a training set; raises `ArtifactError` where it is missing, corrupt or of another version."""
        return cls(folder, artifacts.read_header(folder, KIND, SCHEMA_VERSION, verify=verify))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def resolution(self) -> int:
        """Pixels, both sides, of the pictures in the set."""
        return int(self.meta["resolution"])

    def iter_pictures(self) -> Iterator[tuple[Record, Image.Image]]:
        """Every record with its RGB picture at the training resolution, in manifest order, a row group at a time."""
        position = 0
        with pq.ParquetFile(self.folder / artifacts.PICTURES) as file:
            for batch in file.iter_batches(batch_size=_PICTURES_PER_ROW_GROUP):
                for png in batch.column("png"):
                    yield self.records[position], _open_png(png.as_py())
                    position += 1

    def iter_pixels(self, batch_size: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Batches of pixels: (slice of record indices, uint8 [n, H, W, 3])."""
        start, held = 0, []
        for _, picture in self.iter_pictures():
            held.append(np.asarray(picture))
            if len(held) == batch_size:
                yield slice(start, start + len(held)), np.stack(held)
                start, held = start + len(held), []
        if held:
            yield slice(start, start + len(held)), np.stack(held)

    def pictures(self, ids: Sequence[str]) -> dict[str, bytes]:
        """PNG bytes at the training resolution of the given record ids. Raises `KeyError` for an unknown id."""
        wanted = sorted({self.index[record] for record in ids})
        found: dict[str, bytes] = {}
        with pq.ParquetFile(self.folder / artifacts.PICTURES) as file:
            groups: dict[int, list[int]] = {}
            for position in wanted:
                groups.setdefault(position // _PICTURES_PER_ROW_GROUP, []).append(position)
            for group, positions in groups.items():
                table = file.read_row_group(group)
                for position in positions:
                    row = position - group * _PICTURES_PER_ROW_GROUP
                    found[self.records[position].record] = table.column("png")[row].as_py()
        return found


class TrainingSetWriter:
    """Builds a TrainingSet folder record by record, without holding the pictures in memory.

    Args:
        part: the folder to fill (what `artifacts.writing` yields).
        resolution: pixels, both sides; pictures are resized on the shorter side and centre-cropped to it.
    """

    def __init__(self, part: Path, resolution: int) -> None:
        self._part = part
        self._resolution = resolution
        self._records: list[Record] = []
        self._quarantine: list[Quarantined] = []
        self._first: dict[str, str] = {}
        self._seen: Counter[str] = Counter()
        self._held: list[dict[str, Any]] = []
        self._pictures = pq.ParquetWriter(part / artifacts.PICTURES, _PICTURE_SCHEMA, compression="none")

    def add(
        self,
        picture: Image.Image,
        captions: Sequence[str],
        source: str,
        *,
        group: str | None = None,
        license: str | None = None,
        conversion: str | None = None,
        md5: str | None = None,
    ) -> Record:
        """Add one record from its decoded RGB picture; exact duplicates are kept and flagged."""
        digest = pixel_digest(picture)
        record = Record(
            record=occurrence_id(digest, self._seen[digest]),
            captions=tuple(captions),
            group=group,
            license=license,
            source=source,
            width=picture.width,
            height=picture.height,
            duplicate_of=self._first.get(digest),
            conversion=conversion,
            md5=md5,
        )
        self._seen[digest] += 1
        self._first.setdefault(digest, record.record)
        self._records.append(record)
        buffer = io.BytesIO()
        fit(picture, self._resolution).save(buffer, "PNG")
        self._held.append({"record": record.record, "png": buffer.getvalue()})
        if len(self._held) == _PICTURES_PER_ROW_GROUP:
            self._flush()
        return record

    def quarantine(self, source: str, reason: str) -> None:
        """Note a file that could not become a record."""
        self._quarantine.append(Quarantined(source, reason))

    def finish(self, where: str | Path) -> dict[str, Any]:
        """Write what is left; returns the counts for the header's metadata.

        Raises:
            InputError: no record was added; `where` names the source.
        """
        if not self._records:
            reasons = "; ".join(f"{q.source}: {q.reason}" for q in self._quarantine[:3])
            raise InputError(
                f"holds no usable image{f' ({reasons})' if reasons else ''}.",
                file=where,
                remedy="Put images there and name them, with a caption each, in metadata.jsonl or metadata.csv.",
            )
        self._flush()
        self._pictures.close()
        rows = [{**asdict(r), "captions": list(r.captions)} for r in self._records]
        pq.write_table(pa.Table.from_pylist(rows, _MANIFEST_SCHEMA), self._part / artifacts.MANIFEST)
        lost = pa.Table.from_pylist([asdict(q) for q in self._quarantine], _QUARANTINE_SCHEMA)
        pq.write_table(lost, self._part / artifacts.QUARANTINE)
        return {
            "resolution": self._resolution,
            "records": len(self._records),
            "duplicates": sum(r.duplicate_of is not None for r in self._records),
            "quarantined": len(self._quarantine),
        }

    def _flush(self) -> None:
        if self._held:
            self._pictures.write_table(pa.Table.from_pylist(self._held, _PICTURE_SCHEMA))
            self._held = []


def fit(picture: Image.Image, resolution: int) -> Image.Image:
    """Bring an RGB picture to `resolution` square: its centred largest square, resized (LANCZOS)."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    # The box is resized, not the whole: a sliver's long side would grow to gigapixels.
    return picture.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)


def _open_png(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB")
