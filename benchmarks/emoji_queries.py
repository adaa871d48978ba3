"""The prompts that benchmarks on the emoji set use, and what counts as a right answer to them."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unsee.baselines.encoders import picture_encoder
from unsee.errors import EnvironmentProblem
from unsee.evaluation.retrieval import nearest
from unsee.records.training_set import Record, TrainingSet


@dataclass(frozen=True)
class ConceptQuery:
    """A caption of the training set whose concept exists in every style.

    Attributes:
        record: the record with this very caption.
        concept: code points of the emoji, shared by its drawings in all styles.
        relevant: ids of the concept's records, one per style.
    """

    prompt: str
    style: str
    record: str
    concept: str
    relevant: frozenset[str]


def concept_of(record: Record) -> str:
    """Code points of a record's emoji ("1f34e"), whatever its style."""
    return record.source.partition("/")[2]


def require_emoji(training_set: TrainingSet) -> None:
    """Refuse the digits that an audit falls back to: a fallback never writes a benchmark result."""
    if training_set.meta["source"] != "emoji":
        raise EnvironmentProblem("the emoji set is not available.", remedy="Install npm and run `make audit` again.")


def draw_queries(training_set: TrainingSet, per_style: int, seed: int) -> list[ConceptQuery]:
    """`per_style` captions of each style, drawn by seed among concepts that every style has."""
    by_concept: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in training_set.records:
        by_concept[concept_of(record)].setdefault(str(record.group), record)
    styles = sorted({str(record.group) for record in training_set.records})
    complete = sorted(concept for concept, drawings in by_concept.items() if len(drawings) == len(styles))
    rng = np.random.default_rng(seed)
    queries = []
    for style in styles:
        for concept in rng.choice(complete, per_style, replace=False):
            drawings = by_concept[str(concept)]
            own = drawings[style]
            relevant = frozenset(record.record for record in drawings.values())
            queries.append(ConceptQuery(own.captions[0], style, own.record, str(concept), relevant))
    return queries


def generation_concept_at_1(
    training_set: TrainingSet, queries: Sequence[ConceptQuery], pictures: Mapping[str, bytes]
) -> tuple[float, list[dict[str, object]]]:
    """Share of generated pictures whose nearest training picture (EfficientNet-Lite0) shows the prompt's concept.

    Args:
        pictures: PNG of the generated picture by prompt.
    """
    encode = picture_encoder()
    records = np.concatenate([encode(pixels) for _, pixels in training_set.iter_pixels(64)])
    generated = encode(np.stack([pixels_of(pictures[query.prompt]) for query in queries]))
    found = [training_set.records[row] for row in nearest(generated, records)]
    rows = [
        {"prompt": query.prompt, "nearest": record.captions[0], "concept_found": concept_of(record) == query.concept}
        for query, record in zip(queries, found, strict=True)
    ]
    return float(np.mean([bool(row["concept_found"]) for row in rows])), rows


def pixels_of(png: bytes) -> np.ndarray:
    """uint8 [H, W, 3] of a PNG."""
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))
