"""Where the signal ends: planted influence is found, pure noise is called noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsee.attribution.significance import group_shares, significance


def test_planted_records_are_told_from_noise() -> None:
    rng = np.random.default_rng(1)
    score = rng.normal(2.0, 0.1, size=1000)
    score[:12] += 3.0
    result = significance(score, np.full(1000, 0.05), 0.05)
    assert 12 <= result.signal_end <= 16
    assert result.location == pytest.approx(2.0, abs=0.02)
    assert result.scale == pytest.approx(0.1, rel=0.15)
    assert (result.p_noise[:12] < 1e-6).all()


def test_pure_noise_has_no_signal_most_of_the_time() -> None:
    rng = np.random.default_rng(2)
    ends = [significance(rng.normal(size=300), np.zeros(300), 0.05).signal_end for _ in range(100)]
    assert np.mean([end > 0 for end in ends]) <= 0.15


def test_a_large_standard_error_takes_a_record_out_of_the_signal() -> None:
    rng = np.random.default_rng(3)
    score = rng.normal(0, 0.1, size=200)
    score[0] = 2.0
    assert significance(score, np.zeros(200), 0.05).signal_end >= 1
    unsure = np.zeros(200)
    unsure[0] = 5.0
    assert significance(score, unsure, 0.05).signal_end == 0


def test_one_doubtful_record_does_not_end_the_signal_but_many_do() -> None:
    rng = np.random.default_rng(4)
    score = rng.normal(0, 0.1, size=500)
    score[:40] = np.linspace(4, 2, 40)
    error = np.zeros(500)
    error[1] = 3.0
    assert significance(score, error, 0.05).signal_end >= 40
    error[20:40] = 3.0
    assert significance(score, error, 0.05).signal_end == 20


def test_equal_scores_are_no_signal() -> None:
    assert significance(np.ones(10), np.zeros(10), 0.05).signal_end == 0


@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans(), st.sampled_from(["a", "b", None])), min_size=1, max_size=30))
def test_shares_add_up_to_one_or_there_are_none(rows) -> None:
    score = np.array([r[0] for r in rows])
    inside = np.array([r[1] for r in rows])
    shares = group_shares(score, 0.0, inside, [r[2] for r in rows])
    if (score[inside] > 0).any():
        assert sum(shares.values()) == pytest.approx(1.0)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
    else:
        assert shares == {}
