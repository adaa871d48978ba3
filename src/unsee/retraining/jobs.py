"""Which retrainings prove a ranking: without a query's top records, and without as many at random."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from unsee.errors import InputError
from unsee.params import RetrainParams

KIND = "Retrained"
SCHEMA_VERSION = 1
"""Of the artifact that holds what the jobs give, see `retrained`."""

Kind = Literal["top", "random", "nothing"]


@dataclass(frozen=True)
class Job:
    """One retraining.

    Attributes:
        kind: what is removed: a query's top records, random ones, or nothing.
        query: the query whose top records they are; None for the other kinds.
        control: number of the random removal, from 1; None for the other kinds.
        removed: record ids; a query's best first.
    """

    kind: Kind
    query: str | None
    control: int | None
    removed: tuple[str, ...]


def removal_digest(removed: Collection[str]) -> str:
    """sha256, hex, of the record ids left out, whatever their order."""
    return hashlib.sha256("\n".join(sorted(removed)).encode()).hexdigest()


def plan(rankings: Mapping[str, Sequence[str]], params: RetrainParams, seed: int) -> list[Job]:
    """The retrainings, in order: nothing removed (if asked for), every query's top records, random ones.

    Random removals do not look at a query, so they are made once and serve as controls for all of them.

    Args:
        rankings: of every query that is to be proven, its records, best first; all of the same records.
        seed: the run's.

    Raises:
        InputError: as many records are to be removed as there are.
    """
    if not rankings:
        return []
    records = next(iter(rankings.values()))
    count = removals(len(records), params.removed)
    jobs = [Job("nothing", None, None, ())] if params.nothing_removed else []
    jobs += [Job("top", query, None, tuple(ranking[:count])) for query, ranking in rankings.items()]
    jobs += [
        Job("random", None, control, tuple(at_random(records, count, seed, control)))
        for control in range(1, params.controls + 1)
    ]
    return jobs


def planned_at_most(params: RetrainParams, queries: int) -> int:
    """How many jobs `plan` makes for an audit of `queries` queries, if none of them fails."""
    if not params.enabled:
        return 0
    chosen = len([number for number in params.queries if number < queries]) if params.queries else queries
    return chosen + params.controls + params.nothing_removed


def chosen_queries(params: RetrainParams, queries: Sequence[str]) -> list[str]:
    """The ids of the queries that are to be proven.

    Raises:
        InputError: there is no query of that number.
    """
    beyond = [number for number in params.queries if number >= len(queries)]
    if beyond:
        raise InputError(
            f"names the query {beyond[0]}, there are {len(queries)}.",
            field="retrain.queries",
            remedy=f"Choose numbers from 0 to {len(queries) - 1}.",
        )
    return [queries[number] for number in params.queries] if params.queries else list(queries)


def removals(records: int, removed: float) -> int:
    """How many of `records` records `retrain.removed` means: at least one.

    Raises:
        InputError: none would be left.
    """
    count = int(removed) if removed >= 1 else max(1, round(removed * records))
    if count >= records:
        problem = f"means {count} of {records} records."
        raise InputError(problem, field="retrain.removed", remedy="Choose fewer, so that some are left to train on.")
    return count


def at_random(records: Collection[str], count: int, seed: int, control: int) -> list[str]:
    """`count` records, each set of so many as likely as any other, whatever the order of `records`.

    For the same seed and control a smaller set is part of a larger one.
    """

    def place(record: str) -> bytes:
        return hashlib.sha256(f"removal|{seed}|{control}|{record}".encode()).digest()

    return sorted(records, key=place)[:count]
