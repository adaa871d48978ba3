"""Where in a ranking the signal ends.

Most records have nothing to do with a query; their scores still scatter around a small common shift, because a step
that raises one loss moves them all a little. That scatter is the null distribution: its centre is the median score,
its width is read off the scores below the median, which influence does not reach. A record's score is tested against
it with the score's own standard error on top, and the Benjamini-Hochberg rule says which records hold up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

_NORMAL_QUARTILE = 0.6744897501960817  # median absolute deviation of a standard normal


@dataclass(frozen=True)
class Significance:
    """What the null distribution of one query's scores says.

    Attributes:
        location, scale: centre and width of the scores of uninvolved records, in units of the loss.
        p_noise: per record, the chance that an uninvolved record with its standard error scores at least as high, [n]
            float64.
        signal_end: how many top ranks hold up at the false discovery rate; 0 where none does.
    """

    location: float
    scale: float
    p_noise: np.ndarray
    signal_end: int


def significance(score: np.ndarray, standard_error: np.ndarray, false_discovery_rate: float) -> Significance:
    """Test every score against the null distribution.

    Args:
        score, standard_error: [n] float64.
        false_discovery_rate: in (0, 1).
    """
    location = float(np.median(score))
    below = location - score[score <= location]
    scale = float(np.median(below) / _NORMAL_QUARTILE)
    width = np.sqrt(scale**2 + standard_error**2)
    excess = score - location
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(width > 0, excess / width, np.where(excess > 0, np.inf, 0.0))
    p_noise: np.ndarray = norm.sf(z)
    by_rank = p_noise[np.argsort(-score, kind="stable")]
    return Significance(location, scale, p_noise, _signal_end(by_rank, false_discovery_rate))


def _signal_end(p: np.ndarray, rate: float) -> int:
    """The last rank r that holds up, while all but a share of `rate` of the ranks before it do too.

    Which records hold up is the Benjamini-Hochberg rule over all of them. Standard errors differ, so those need not be
    a prefix of the ranking; a reader wants one place where it ends, and a few doubtful ranks before it do not move it.
    """
    ordered = np.sort(p)
    passing = np.nonzero(ordered <= rate * np.arange(1, len(p) + 1) / len(p))[0]
    if len(passing) == 0:
        return 0
    holds = p <= ordered[passing[-1]]
    doubtful = np.cumsum(~holds) / np.arange(1, len(p) + 1)
    ends = np.nonzero(holds & (doubtful <= rate))[0]
    return int(ends[-1]) + 1 if len(ends) else 0


def group_shares(
    score: np.ndarray, location: float, in_signal: np.ndarray, groups: list[str | None]
) -> dict[str, float]:
    """Each group's share of the influence above the noise: its part of the summed excess (score - location).

    Only records inside the signal count; the shares add up to 1, or the result is empty where there is no signal.

    Args:
        score: [n].
        in_signal: [n] bool.
        groups: of the records; None counts as "(none)".
    """
    excess = np.where(in_signal, np.maximum(score - location, 0.0), 0.0)
    total = float(excess.sum())
    if total <= 0:
        return {}
    shares: dict[str, float] = {}
    for amount, group in zip(excess, groups, strict=True):
        if amount > 0:
            name = group or "(none)"
            shares[name] = shares.get(name, 0.0) + float(amount) / total
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))
