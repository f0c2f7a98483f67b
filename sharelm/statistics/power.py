"""What a study can show before it is run: power, the smallest difference found, the seeds and documents it takes.

Everything is that of the interval of `intervals.py`; `docs/statistics.md` says from where the spreads come.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import ndtr, stdtrit

from sharelm.statistics.intervals import MOST_SEEDS

MOST_DOCUMENTS = 10_000_000
_NODES = 48  # of Gauss-Legendre over the probability of each chi-square
_KNOWN = 300  # degrees of freedom from which the documents' error is taken as known


@dataclass(frozen=True)
class Spread:
    """How far a figure moves, in the metric's unit.

    `seeds` is the standard deviation of one arm's figure over seeds, apart from what all arms share of a seed.
    `documents` is the standard error over documents of a paired difference times the root of their number, and
    `rests_on` the share of the documents that this error effectively rests on (its degrees of freedom by document).
    """

    seeds: float
    documents: float
    rests_on: float = 1.0


@dataclass(frozen=True)
class Design:
    """A study to be: `level` is the one-sided level of the test, `arms` are those that comparisons name."""

    arms: int
    seeds: int
    documents: int
    level: float


def _quadrature(freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of a chi-square with this freedom, and their weights; zero where there is none."""
    if freedom == 0:
        return np.zeros(1), np.ones(1)
    at, weights = np.polynomial.legendre.leggauss(_NODES)
    return stats.chi2.ppf((at + 1) / 2, freedom), weights / 2


def power(spread: Spread, design: Design, distance: float) -> float:
    """The chance that the interval ends before a bound that lies `distance` beyond the true difference.

    The mean over both estimated variances of a normal probability, which for two arms without documents' error, and for
    one seed, is the non-central t distribution's. The pair's own variance over seeds is taken where it is larger than
    the pooled one, as the interval does.
    """
    if design.seeds == 1 and spread.documents == 0:
        return float(distance > 0)
    documents_error = spread.documents / math.sqrt(design.documents)
    rests_on = max(1.0, min(design.documents - 1, spread.rests_on * design.documents))
    if rests_on > _KNOWN:
        found, found_weights = np.ones(1), np.ones(1)
    else:
        found, found_weights = _quadrature(rests_on)
        found = found / rests_on
    by_documents = (stdtrit(rests_on, 1 - design.level) * documents_error) ** 2 * found
    if design.seeds == 1:
        shown = ndtr((distance - np.sqrt(by_documents)) / documents_error)
        return float(shown @ found_weights)
    per_contrast = design.seeds - 1
    freedom = (design.arms - 1) * per_contrast
    variance = 2 * spread.seeds**2 / design.seeds
    own, own_weights = _quadrature(per_contrast)
    others, others_weights = _quadrature(freedom - per_contrast)
    share = np.maximum(own[:, None] / per_contrast, (own[:, None] + others) / freedom)
    by_seeds = stdtrit(freedom, 1 - design.level) ** 2 * variance * share
    half = np.sqrt(by_seeds[:, :, None] + by_documents)
    shown = ndtr((distance - half) / math.sqrt(documents_error**2 + variance))
    return float(own_weights @ (shown @ found_weights) @ others_weights)


def detectable(spread: Spread, design: Design, wanted: float) -> float:
    """The distance between truth and bound at which the power is `wanted`.

    It is the smallest difference below zero that is found to be better, and how far below the margin a difference
    has to lie to be found not worse.
    """
    high = spread.seeds + spread.documents
    while power(spread, design, high) < wanted:
        high *= 2
    return float(brentq(lambda distance: power(spread, design, distance) - wanted, 0, high, xtol=1e-9 * high))


def seeds_needed(spread: Spread, design: Design, distance: float, wanted: float) -> int | None:
    """The fewest seeds, two or more, with this power; None where more than `MOST_SEEDS` would be needed."""
    return _least(2, MOST_SEEDS, lambda seeds: power(spread, replace(design, seeds=seeds), distance) >= wanted)


def documents_needed(spread: Spread, design: Design, distance: float, wanted: float) -> int | None:
    """The fewest documents, two or more, with this power at the design's seeds.

    None where more than `MOST_DOCUMENTS` would be needed: then only more seeds help.
    """
    return _least(2, MOST_DOCUMENTS, lambda count: power(spread, replace(design, documents=count), distance) >= wanted)


def _least(low: int, high: int, enough: Callable[[int], bool]) -> int | None:
    """The least whole number from `low` to `high` that is enough, where every larger one is too."""
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
