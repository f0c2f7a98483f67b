"""What a family of comparisons shows: one-sided tests against zero and the margin, corrected after Holm.

`docs/statistics.md` says what is claimed and how often it is wrong. Everywhere here a difference has the sign at which
more is worse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.optimize import brentq
from scipy.special import stdtrit

from sharelm.statistics.intervals import interval

Outcome = Literal["better", "not_worse", "worse", "not_shown"]

LEAST = 1e-15  # a p-value below this is given as this: Student's quantile is not exact further out


@dataclass(frozen=True)
class Estimate:
    """A difference and its standard errors, all in the metric's unit; `seeds_error` is None with one seed."""

    difference: float
    documents_error: float
    documents_freedom: float
    seeds_error: float | None
    seeds_freedom: int | None

    def ends(self, confidence: float) -> tuple[float, float]:
        """The ends of its two-sided interval."""
        return interval(
            self.difference,
            self.documents_error,
            self.documents_freedom,
            self.seeds_error,
            self.seeds_freedom,
            confidence,
        )

    def tail(self, distance: float) -> float:
        """The one-sided p-value against a truth that lies `distance` to the worse side of the estimate.

        It is the level a at which the interval of confidence 1 - 2a just reaches that far, so that a test at a and
        that interval never disagree. Below 0.5 for a positive distance, above for a negative one.
        """
        if distance <= 0:
            return 0.5 if distance == 0 else 1 - self.tail(-distance)
        sources = [(self.documents_freedom, self.documents_error)]
        if self.seeds_error is not None:
            sources.append((self.seeds_freedom or 0, self.seeds_error))

        def beyond(log_level: float) -> float:
            level = math.exp(log_level)
            return distance - math.hypot(*(stdtrit(freedom, level) * error for freedom, error in sources))

        ends = math.log(LEAST), math.log(0.5)
        return LEAST if beyond(ends[0]) >= 0 else math.exp(brentq(beyond, *ends, xtol=1e-12))


@dataclass(frozen=True)
class Adjusted:
    """A kind of claim, tested for every member of a family: Holm's adjusted p-values, and each test's own level."""

    p: list[float]
    claimed: list[bool]
    levels: list[float]


def holm(p: Sequence[float], level: float) -> Adjusted:
    """Holm's step-down test of a family at `level` (Scandinavian Journal of Statistics 6, 1979).

    The smallest p-value is tested at level / n, the next at level / (n - 1), and so on up to the first that fails; it
    and all larger ones are tested at the level where it failed. An adjusted p-value below `level` is a claim. Whatever
    depends on what, the chance of any wrong claim is at most `level`.
    """
    count, largest, failed = len(p), 0.0, None
    adjusted, levels = [0.0] * count, [0.0] * count
    for rank, at in enumerate(sorted(range(count), key=lambda at: p[at])):
        largest = max(largest, min(1.0, (count - rank) * p[at]))
        adjusted[at] = largest
        if largest >= level and failed is None:
            failed = level / (count - rank)
        levels[at] = failed or level / (count - rank)
    return Adjusted(adjusted, [value < level for value in adjusted], levels)


@dataclass(frozen=True)
class Claim:
    """What is claimed of one comparison, the confidence of the interval that shows it, and the adjusted p-values."""

    outcome: Outcome
    confidence: float
    p_not_worse: float | None = None
    p_better: float | None = None
    p_worse: float | None = None
    p_equivalent: float | None = None


def claims(family: Sequence[Estimate | None], margin: float, confidence: float) -> list[Claim]:
    """One claim for each comparison of a family; None is a comparison without an interval, which still counts.

    Four kinds of claim are tested, each over the whole family at (1 - confidence) / 2: not worse (the difference is
    below the margin), better (below zero), worse (above the margin), and equivalent (below the margin and above its
    negative: two one-sided tests, Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987). What is better is not worse too.
    The confidence is that at which the outcome was tested, so that its interval shows it.
    """
    level = (1 - confidence) / 2

    def tested(distances: Sequence[float | None]) -> tuple[list[float], Adjusted]:
        p = [
            1.0 if one is None or distance is None else one.tail(distance)
            for one, distance in zip(family, distances, strict=True)
        ]
        return p, holm(p, level)

    at = [None if one is None else one.difference for one in family]
    below_margin, not_worse = tested([None if d is None else margin - d for d in at])
    below_zero, better = tested([None if d is None else -d for d in at])
    _, worse = tested([None if d is None else d - margin for d in at])
    above, _ = tested([None if d is None else d + margin for d in at])
    equivalent = holm([max(pair) for pair in zip(below_margin, above, strict=True)], level)
    found = []
    for i, one in enumerate(family):
        if one is None:
            found.append(Claim("not_shown", 1 - 2 * level / len(family)))
            continue
        outcome: Outcome
        if better.claimed[i]:
            outcome, tested_at = "better", better.levels[i]
        elif not_worse.claimed[i]:
            # Where the family does not let it be called better, its interval is not let beyond zero either.
            outcome, tested_at = "not_worse", min(not_worse.levels[i], below_zero[i])
        elif worse.claimed[i]:
            outcome, tested_at = "worse", worse.levels[i]
        else:  # tested for both; the interval is that of the claim it came nearer to
            nearer = not_worse if one.difference <= margin else worse
            outcome, tested_at = "not_shown", nearer.levels[i]
        p = not_worse.p[i], better.p[i], worse.p[i], equivalent.p[i]
        found.append(Claim(outcome, 1 - 2 * tested_at, *p))
    return found
