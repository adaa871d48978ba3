"""However many processes there are, together they take every position of a batch once, and add up to one."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from unsee.retraining.team import Team


@given(size=st.integers(1, 9), batch_size=st.integers(1, 100))
def test_every_position_is_taken_once(size: int, batch_size: int) -> None:
    team = Team()
    taken = []
    for rank in range(size):
        # The arithmetic needs no other process.
        team.rank, team.size = rank, size
        taken.append(list(range(batch_size))[team.positions(batch_size)])
    assert sorted(place for places in taken for place in places) == list(range(batch_size))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_one_process_leads_and_adds_nothing() -> None:
    team = Team()
    value = torch.arange(3.0)
    team.add_up([value])
    team.wait()
    team.part()
    assert team.leads
    assert torch.equal(value, torch.arange(3.0))
