"""What every data source hands over: pictures on their way into a training set, or why a file is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from unsee.records.training_set import Quarantined


@dataclass(frozen=True)
class Candidate:
    """A decoded RGB picture with what its source says about it; the fields are those of `Record`."""

    picture: Image.Image
    captions: tuple[str, ...]
    source: str
    group: str | None = None
    license: str | None = None
    conversion: str | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Intake:
    """A data source that has been checked and is ready to be read.

    Attributes:
        where: what messages call the source.
        total: number of items.
        items: candidates and quarantined files, in an order that depends on the content only; read once.
        meta: what the training set's header should say about the source.
    """

    where: str
    total: int
    items: Iterator[Candidate | Quarantined]
    meta: dict[str, Any] = field(default_factory=dict)
