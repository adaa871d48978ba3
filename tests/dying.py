"""What a helping process of the training runs in tests that let it die; spawned processes import it from here."""

from __future__ import annotations

import os
from typing import Any

from unsee.retraining import group
from unsee.retraining.team import Team


def in_training(*arguments: Any) -> None:
    """Help, and end the process without a word at the third sum of gradients."""
    add_up, sums = Team.add_up, []

    def last(team: Team, tensors: Any) -> None:
        sums.append(1)
        if len(sums) == 3:
            os._exit(3)
        add_up(team, tensors)

    Team.add_up = last
    group._help(*arguments)
