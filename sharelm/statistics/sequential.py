"""Looking at seeds as they come without more wrong claims: a group-sequential test that spends its level over looks.

The spending function is Lan and DeMets' (Biometrika 70, 1983) of O'Brien and Fleming's kind: next to nothing early, and
nearly the whole level at the last look. Looks need not be evenly apart, and how many there are need not be known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from sharelm.statistics.intervals import Floats

_NODES = 256  # of Gauss-Legendre over the statistics with which the study goes on
_FAR = 8.0  # standard deviations below the mean where no statistic is
LEAST_STEP = 0.01  # between looks: the quadrature resolves no smaller one, and fifty seeds step by 0.02


def spent(level: float, fraction: float) -> float:
    """The share of a one-sided `level` that may be spent when this fraction of the information is there.

    2 - 2 Phi(z / sqrt(fraction)) with Phi(z) = 1 - level / 2 (Lan and DeMets, 1983, their alpha_1).
    """
    if fraction <= 0:
        return 0.0
    return float(2 * ndtr(ndtri(level / 2) / math.sqrt(min(1.0, fraction))))


class _Walk:
    """The density of the score process where no bound was crossed, look by look (Armitage, McPherson, Rowe, 1969).

    At information fraction t the process is normal with mean drift * t and variance t, with independent increments.
    """

    def __init__(self, drift: float) -> None:
        self.drift, self.at = drift, 0.0
        self.places: Floats = np.zeros(1)
        self.masses: Floats = np.ones(1)

    def beyond(self, fraction: float, bound: float) -> float:
        """The chance that the process goes on to this look and lies beyond `bound` there."""
        step = fraction - self.at
        return float(self.masses @ ndtr((self.places + self.drift * step - bound) / math.sqrt(step)))

    def go_on(self, fraction: float, bound: float) -> None:
        """Keep what lies below `bound` at this look."""
        step, low = fraction - self.at, self.drift * fraction - _FAR * math.sqrt(fraction)
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        half = (bound - low) / 2
        places = low + half * (nodes + 1)
        apart = (places[:, None] - self.places - self.drift * step) / math.sqrt(step)
        density = np.exp(-(apart**2) / 2) @ self.masses / math.sqrt(2 * math.pi * step)
        self.places, self.masses, self.at = places, density * weights * half, fraction


def bounds(level: float, fractions: Sequence[float]) -> list[float]:
    """The z-values at which a one-sided test of `level` stops at looks with these fractions of the information.

    `fractions` rise, by `LEAST_STEP` or more, and end at 1 at most. Raises `ValueError` where they do not.
    """
    _check(fractions)
    walk, found, before = _Walk(0.0), [], 0.0
    for fraction in fractions:
        now = spent(level, fraction)
        scale = math.sqrt(fraction)

        def excess(z: float, fraction: float = fraction, scale: float = scale, more: float = now - before) -> float:
            return walk.beyond(fraction, z * scale) - more

        z = float(brentq(excess, -_FAR, 40.0, xtol=1e-10))
        found.append(z)
        walk.go_on(fraction, z * scale)
        before = now
    return found


def levels(level: float, fractions: Sequence[float]) -> list[float]:
    """The one-sided level of the test at each look: that of its bound, for an interval of confidence 1 - 2 * level.

    With few seeds Student's quantile at this level takes the place of the bound (Jennison and Turnbull, Group
    Sequential Methods, 2000, chapter 11). Fractions are those of seeds. The documents are the same at every look, which
    makes looks more alike than the bounds allow for, and the test conservative.
    """
    return [float(ndtr(-z)) for z in bounds(level, fractions)]


def crossing(at: Sequence[float], fractions: Sequence[float], drift: float) -> list[float]:
    """The chance of stopping at each look with these z-values, where z has the mean drift * sqrt(fraction).

    `drift` is the mean of the last look's z: true distance from the bound over its standard error.
    """
    _check(fractions)
    walk, found = _Walk(drift), []
    for z, fraction in zip(at, fractions, strict=True):
        bound = z * math.sqrt(fraction)
        found.append(walk.beyond(fraction, bound))
        walk.go_on(fraction, bound)
    return found


def _check(fractions: Sequence[float]) -> None:
    steps = [b - a for a, b in zip([0.0, *fractions], fractions, strict=False)]
    if not steps or min(steps) < LEAST_STEP or fractions[-1] > 1:
        raise ValueError(f"fractions = {list(fractions)}: they rise from above 0 to 1 at most, by {LEAST_STEP} or more")
