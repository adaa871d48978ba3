"""Recall and nearest neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsee.evaluation.retrieval import nearest, ranking_of, recall_at_k

IDS = [f"r{i}" for i in range(20)]


def test_recall() -> None:
    assert recall_at_k(["a", "b", "c"], {"b", "x"}, 2) == 0.5


@given(st.permutations(IDS), st.sets(st.sampled_from(IDS), min_size=1), st.integers(1, 19))
def test_recall_grows_with_k_up_to_one(ranking, relevant, k: int) -> None:
    assert recall_at_k(ranking, relevant, k) <= recall_at_k(ranking, relevant, k + 1)
    assert recall_at_k(ranking, relevant, 20) == 1


def test_ties_are_ordered_by_id() -> None:
    assert ranking_of(np.array([1.0, 2.0, 1.0]), ["c", "a", "b"]) == ["a", "b", "c"]


def test_what_has_no_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        recall_at_k(["a"], set(), 1)
    with pytest.raises(ValueError, match="positive"):
        recall_at_k(["a"], {"a"}, 0)


def test_nearest_by_angle_not_by_length() -> None:
    assert nearest(np.array([[2.0, 0.1]]), np.array([[0.0, 9.0], [0.1, 0.0]])).tolist() == [1]
