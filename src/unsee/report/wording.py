"""Numbers and sentences as the page shows them."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from unsee.report.content import MethodFacts, QueryReport
from unsee.report.proof import ProofFacts

NO_GROUP = "(none)"
LONGEST_TEXT = 400
"""Characters of a caption, path or reason that the page shows at most; report.json has them whole."""

_SMALLEST_EXPONENT = -300  # 10.0**exponent must not underflow
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_WEIGHTS = {
    "cross-attn-kv": "the keys and values through which the picture attends to its text",
    "cross-attn": "the attention from the picture to its text",
    "attn": "all attention layers",
    "all": "all weights of the denoiser",
}


def legible(text: str, limit: int = LONGEST_TEXT) -> str:
    """Text from outside as a page can hold it: controls and lone surrogates replaced, over-long text cut.

    Line breaks and tabs become spaces; every other control or unpaired surrogate becomes U+FFFD.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(
        " " if char in "\n\r\t" else "\ufffd" if unicodedata.category(char) in {"Cc", "Cs"} else char for char in cut
    )


def count(number: int) -> str:
    """12,345."""
    return f"{number:,}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """1 record, 2 records."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """61%; a share that is neither nothing nor everything never rounds to either."""
    value = 100 * share
    if 0 < value < 1:
        return "< 1%"
    if 99.5 <= value < 100 - 1e-9:
        return "> 99%"
    return f"{value:.0f}%"


def rate(share: float) -> str:
    """A rate that a person chose, in full: 5%, 0.1%."""
    return f"{100 * share:.10g}%"


def probability(p: float) -> str:
    """Two significant digits, with its relation: "= 0.0023", "< 0.0001"."""
    if p < 1e-4:
        return "< 0.0001"
    return f"= {p:.2f}" if p >= 0.1 else f"= {p:#.2g}"


def number(value: float) -> str:
    """Four significant digits, as a power of ten where it is very large or small."""
    if value == 0:
        return "0"
    exponent = max(_SMALLEST_EXPONENT, math.floor(math.log10(abs(value))))
    if -4 <= exponent < 6:
        text = f"{value:,.{max(0, 3 - exponent)}f}"
        return _minus(text.rstrip("0").rstrip(".") if "." in text else text)
    return f"{_minus(f'{value / 10.0**exponent:.3g}')} × {power_of_ten(exponent)}"


def power_of_ten(exponent: int) -> str:
    """10⁻³."""
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


@dataclass(frozen=True)
class Scale:
    """One unit and one number of decimals for all scores of a query, so that they can be compared by eye.

    Attributes:
        exponent: the unit is 10^exponent of loss.
        decimals: shown.
    """

    exponent: int
    decimals: int

    @classmethod
    def over(cls, values: list[float]) -> Scale:
        """The scale on which the largest of the values has one to three digits before the point."""
        largest = max((abs(value) for value in values), default=0.0)
        if largest == 0:
            return cls(0, 2)
        exponent = max(_SMALLEST_EXPONENT, 3 * math.floor(math.log10(largest) / 3))
        return cls(exponent, 2 if largest / 10.0**exponent < 10 else 1)

    @property
    def unit(self) -> str:
        """The power of ten, or nothing where it is 1."""
        return power_of_ten(self.exponent) if self.exponent else ""

    @property
    def suffix(self) -> str:
        """What follows a value in this unit: " × 10⁻³", or nothing."""
        return f" × {self.unit}" if self.unit else ""

    def show(self, value: float) -> str:
        """The value in this unit, without the unit."""
        text = f"{value / 10.0**self.exponent:,.{self.decimals}f}"
        return _minus(text) if float(text.replace(",", "")) else text.removeprefix("-")


@dataclass(frozen=True)
class Verdict:
    """A query's result in a glance.

    Attributes:
        kind: "signal", "none" or "failed".
        headline: one short sentence.
        detail: one more, without any text from outside except the reason of a failure.
    """

    kind: str
    headline: str
    detail: str


def verdict(query: QueryReport, method: MethodFacts) -> Verdict:
    """What a reader in a hurry takes away from a query."""
    ranking = query.ranking
    if ranking is None:
        return Verdict("failed", "Not attributed.", legible(query.failure or ""))
    at = f"at a false discovery rate of {rate(method.false_discovery_rate)}"
    if ranking.signal_end == 0:
        detail = f"None of {counted(ranking.records, 'training record')} stands out {at}."
        return Verdict("none", "Indistinguishable from noise.", detail)
    headline = f"Signal ends at rank {count(ranking.signal_end)} of {count(ranking.records)}."
    stand = "stands" if ranking.signal_end == 1 else "stand"
    return Verdict("signal", headline, f"{counted(ranking.signal_end, 'training record')} {stand} out from noise {at}.")


def proof_verdict(proof: ProofFacts, scale: Scale) -> Verdict:
    """What a reader in a hurry takes away from retraining."""
    top = "the record that ranks" if len(proof.removed) == 1 else f"the {count(len(proof.removed))} records that rank"
    mean = sum(removal.delta_l for removal in proof.random) / len(proof.random)
    rises = (
        f"Without {top} first, the model’s loss on this picture rises by "
        f"{scale.show(proof.top.delta_l)}{scale.suffix}; "
        f"without {counted(len(proof.removed), 'random record')}, by {scale.show(mean)}{scale.suffix}"
        f"{f' (mean of {count(len(proof.random))} removals)' if len(proof.random) > 1 else ''}."
    )
    if proof.confirmed:
        return Verdict("signal", "Retraining confirms the ranking.", rises)
    return Verdict("none", "Retraining does not confirm the ranking.", rises)


def in_tries(chance: float) -> str:
    """A chance that counts cases: in 1 of 3 cases, in every case."""
    fraction = Fraction(chance).limit_denominator(10_000)
    if fraction == 1:
        return "in every case"
    return f"in {count(fraction.numerator)} of {count(fraction.denominator)} cases"


def moved(weights: str) -> str:
    """What a preset of weights is, in plain words; patterns stand for themselves."""
    return _WEIGHTS.get(weights, f"those matching {weights}")


def _minus(text: str) -> str:
    return text.replace("-", "−")
