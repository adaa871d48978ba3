"""Does a report hold? Two summaries (report.json) side by side, score for score."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jsonschema

from unsee.errors import InputError
from unsee.report.summary import schema

DEFAULT_TOLERANCE = 1e-5
"""Of a score, as a share of the mean baseline loss: what batch sizes, shards and thread counts may change."""


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        differences: why the report does not hold; empty where it does.
        notes: what differs and does not matter by itself (a model trained again may differ in its last bits).
        largest: the largest difference between two scores, as a share of the mean baseline loss.
        compared: how many scores were compared.
    """

    differences: list[str]
    notes: list[str]
    largest: float
    compared: int


def read_report(path: Path) -> dict[str, Any]:
    """A report.json, checked against its schema.

    Raises:
        InputError: there is none, or it is not one that this version of unsee reads.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.validate(report, schema())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}).", file=path, remedy="Name a report.json.") from error
    except ValueError as error:
        raise InputError(f"is not JSON ({error}).", file=path, remedy="Name a report.json.") from error
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "(top)"
        problem = f"is not a report that this version of unsee reads ({error.message[:200]})."
        raise InputError(problem, file=path, field=where, remedy="Write it with the same version of unsee.") from error
    checked: dict[str, Any] = report
    return checked


def compare(original: Mapping[str, Any], again: Mapping[str, Any], tolerance: float) -> Comparison:
    """Compare two reports.

    They agree where they are of the same training set and every query has the same top records with the same scores.
    Two records whose scores differ by no more than the tolerance may change places.

    Args:
        tolerance: of a score, as a share of the query's mean baseline loss.
    """
    differences: list[str] = []
    notes: list[str] = []
    if original["data"]["digest"] != again["data"]["digest"]:
        differences.append("the training sets differ")
    for name in ("model", "code", "params"):
        one, other = ((report.get("digests") or {}).get(name, report.get(name)) for report in (original, again))
        if one != other:
            notes.append(f"the {name} differs")
    gaps: list[float] = []
    for number, (one, other) in enumerate(zip_longest(original["queries"], again["queries"]), start=1):
        if one is None or other is None or one["prompt"] != other["prompt"]:
            differences.append(f"query {number} is not the same")
            continue
        if one["status"] != other["status"]:
            differences.append(f"query {number} is {one['status']} in one and {other['status']} in the other")
        elif one["ranking"] is not None and other["ranking"] is not None:
            if one["picture_sha256"] != other["picture_sha256"]:
                notes.append(f"the picture of query {number} differs")
            scale = float(one["ranking"]["mean_baseline_loss"])
            for what, gap in _gaps(one["ranking"], other["ranking"]):
                gaps.append(gap / scale)
                if gap > tolerance * scale:
                    differences.append(f"query {number}: {what} differs by {gap / scale:.2g} of the mean baseline loss")
    return Comparison(differences, notes, max(gaps, default=0.0), len(gaps))


def _gaps(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The differences between two rankings: rank by rank, and record by record in the two lists of top records."""
    for rank, (left, right) in enumerate(zip_longest(one["curve"], other["curve"]), start=1):
        if left is None or right is None:
            yield "the length of the ranking", float("inf")
            return
        yield f"the score at rank {rank}", abs(left - right)
    scores = {top["record"]: top["score"] for top in other["top"]}
    last = min(scores.values(), default=0.0)
    for top in one["top"]:
        # A record that has left the list scores at most as much as the last one on it.
        gap = abs(top["score"] - scores[top["record"]]) if top["record"] in scores else top["score"] - last
        yield f"the score of {top['record'][:12]}", max(gap, 0.0)
