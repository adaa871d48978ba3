"""Which retrainings are planned."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsee.errors import InputError
from unsee.params import RetrainParams, load_params
from unsee.retraining.jobs import Job, at_random, chosen_queries, plan, planned_at_most, removal_digest, removals

RECORDS = [f"r{number:03d}" for number in range(200)]
RANKINGS = {"a": RECORDS, "b": RECORDS[::-1]}


def params(**changes: object) -> RetrainParams:
    return load_params(None, {f"retrain.{key}": value for key, value in {"enabled": True, **changes}.items()}).retrain


def test_top_records_of_every_query_and_random_ones_for_all() -> None:
    jobs = plan(RANKINGS, params(removed=3.0, controls=2), 0)
    assert jobs[:2] == [
        Job("top", "a", None, ("r000", "r001", "r002")),
        Job("top", "b", None, ("r199", "r198", "r197")),
    ]
    assert [(job.kind, job.query, job.control, len(job.removed)) for job in jobs[2:]] == [
        ("random", None, 1, 3),
        ("random", None, 2, 3),
    ]
    assert jobs[2].removed != jobs[3].removed


def test_with_nothing_removed_comes_first_and_nothing_to_prove_needs_no_job() -> None:
    jobs = plan(RANKINGS, params(nothing_removed=True), 0)
    assert [job.kind for job in jobs] == ["nothing", "top", "top", "random", "random"]
    assert jobs[0].removed == ()
    assert plan({}, params(nothing_removed=True), 0) == []


@pytest.mark.parametrize(
    ("changes", "queries", "expected"),
    [
        ({"queries": [0]}, 3, 3),
        ({"queries": []}, 3, 5),
        ({"queries": [0, 2], "nothing_removed": True, "controls": 1}, 3, 4),
        ({"queries": [0, 7]}, 3, 3),
        ({"enabled": False}, 3, 0),
    ],
)
def test_how_many_can_be_told_before_there_are_queries(changes: dict[str, object], queries: int, expected: int) -> None:
    assert planned_at_most(params(**changes), queries) == expected


def test_chosen_queries() -> None:
    assert chosen_queries(params(queries=[2, 0]), ["a", "b", "c"]) == ["c", "a"]
    assert chosen_queries(params(queries=[]), ["a", "b"]) == ["a", "b"]
    with pytest.raises(InputError, match=r"retrain.queries: names the query 2, there are 2. .* from 0 to 1"):
        chosen_queries(params(queries=[0, 2]), ["a", "b"])


@pytest.mark.parametrize(
    ("records", "removed", "expected"),
    [(651, 0.025, 16), (651, 0.01, 7), (10, 0.01, 1), (10, 1.0, 1), (10, 9.0, 9), (651, 16.0, 16)],
)
def test_a_share_or_a_count(records: int, removed: float, expected: int) -> None:
    assert removals(records, removed) == expected


@pytest.mark.parametrize(("records", "removed"), [(10, 10.0), (10, 11.0), (10, 0.99), (1, 0.5)])
def test_some_records_must_be_left(records: int, removed: float) -> None:
    with pytest.raises(InputError, match=r"retrain.removed: means \d+ of \d+ records"):
        removals(records, removed)


@given(
    records=st.sets(st.text(max_size=8), min_size=1, max_size=30),
    seed=st.integers(0, 9),
    control=st.integers(1, 9),
    data=st.data(),
)
def test_a_random_removal_depends_on_the_set_and_not_on_its_order(
    records: set[str], seed: int, control: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(records)))
    drawn = at_random(sorted(records), count, seed, control)
    assert len(set(drawn)) == len(drawn) == count
    assert set(drawn) <= records
    assert at_random(data.draw(st.permutations(sorted(records))), count, seed, control) == drawn
    assert at_random(records, max(0, count - 1), seed, control) == drawn[: max(0, count - 1)]


def test_every_record_is_as_likely_as_any_other() -> None:
    counts = Counter(record for control in range(2000) for record in at_random(RECORDS, 20, 0, control))
    # Binomial: 2000 draws of 1 in 10, a standard deviation of 13.4; the largest of 200 stays within 4.5 of them.
    assert set(counts) == set(RECORDS)
    assert max(abs(count - 200) for count in counts.values()) < 61
    assert at_random(RECORDS, 20, 0, 1) != at_random(RECORDS, 20, 1, 1)


def test_a_removals_digest_does_not_depend_on_the_order() -> None:
    assert removal_digest(["b", "a"]) == removal_digest({"a", "b"}) == hashlib.sha256(b"a\nb").hexdigest()
    assert removal_digest(["ab"]) != removal_digest(["a", "b"])
