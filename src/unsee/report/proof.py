"""What retraining showed about one query."""

from __future__ import annotations

from dataclasses import dataclass

from unsee.report.checked import Checked, require

ERRORS = 2
"""Standard errors by which the excess must exceed 0 to count."""

REMOVED_SHOWN = 40
"""How many of the removed records the page shows at most; report.json names them all."""


@dataclass(frozen=True)
class RemovalFacts(Checked):
    """One retraining, as it shows on the query.

    Attributes:
        control: number of the random removal, from 1; None for the query's top records.
        delta_l: rise of the query's loss.
        standard_error: of it, from the noises that the loss was measured with.
        loss_before, loss_after: the losses that it is the difference of.
        picture: what the retrained model draws, PNG.
        mse: between that and the picture before, on values in [0, 1].
        similarity: cosine of an encoder's features of the two; None where none was at hand.
        same_machine: whether it was measured against a model from a machine that rounds the same way.
    """

    control: int | None
    delta_l: float
    standard_error: float
    loss_before: float
    loss_after: float
    picture: bytes
    mse: float
    similarity: float | None
    same_machine: bool

    def _check(self) -> None:
        require(self.standard_error >= 0, "standard_error is negative")
        require(0 <= self.mse <= 1, "mse is not in [0, 1]")


@dataclass(frozen=True)
class ControlQuery(Checked):
    """Another query of the audit, under the same removal."""

    query: str
    prompt: str
    delta_l: float
    standard_error: float


@dataclass(frozen=True)
class RemovedRecord(Checked):
    """One of the removed records, with its picture at the training resolution (PNG) and its first caption."""

    record: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class ProofFacts(Checked):
    """A query's top records against as many random ones.

    Attributes:
        removed: ids of the top records that were removed, best first.
        shown: the first of them, `REMOVED_SHOWN` at most.
        before: what the audited model draws, PNG.
        seed, guidance, steps: how all pictures were drawn.
        timesteps, draws: the grid that losses were measured on.
        excess, excess_standard_error: by how much Delta-L exceeds the mean of the random removals.
        chance: that a random removal ranks as high among them.
        control_queries: in the audit's order.
    """

    removed: tuple[str, ...]
    shown: tuple[RemovedRecord, ...]
    before: bytes
    seed: int
    guidance: float
    steps: int
    timesteps: int
    draws: int
    top: RemovalFacts
    random: tuple[RemovalFacts, ...]
    excess: float
    excess_standard_error: float
    chance: float
    control_queries: tuple[ControlQuery, ...]

    @property
    def confirmed(self) -> bool:
        """Whether the top records' removal stands out from every random one, and from their mean beyond the noise."""
        beyond_noise = self.excess > ERRORS * self.excess_standard_error
        return beyond_noise and all(self.top.delta_l > removal.delta_l for removal in self.random)

    def _check(self) -> None:
        require(self.top.control is None, "the removal of the top records has a control number")
        numbers = [removal.control for removal in self.random]
        require(bool(numbers) and numbers == list(range(1, len(numbers) + 1)), "random removals are not 1, 2, ...")
        require(len(self.shown) == min(len(self.removed), REMOVED_SHOWN), "shown is not the first removed records")
        require(
            [record.record for record in self.shown] == list(self.removed[: len(self.shown)]),
            "shown is not the first removed records",
        )
        require(0 < self.chance <= 1, "chance is not in (0, 1]")
        require(self.excess_standard_error >= 0, "excess_standard_error is negative")
