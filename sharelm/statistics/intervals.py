"""Standard errors over documents and over seeds, and the interval they make.

`docs/statistics.md` says why these and not others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

RESAMPLES = 2000
MOST_SEEDS = 50  # beyond which nobody would train
_CELLS_AT_ONCE = 2_000_000  # resamples x documents held at a time: 16 MB an array


def _resampled(numerators: Floats, sizes: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """The ratios of every resample, (resamples, columns)."""
    documents, columns = numerators.shape
    ratios = np.empty((resamples, columns))
    rows = max(1, _CELLS_AT_ONCE // documents)
    for start in range(0, resamples, rows):
        here = min(rows, resamples - start)
        drawn = rng.integers(0, documents, size=(here, documents))
        drawn += documents * np.arange(here)[:, None]
        times = np.bincount(drawn.ravel(), minlength=here * documents).reshape(here, documents).astype(np.float64)
        ratios[start : start + here] = (times @ numerators) / (times @ sizes)
    return ratios


def document_standard_errors(
    numerators: Floats, sizes: Floats, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Floats:
    """Bootstrap standard errors of `numerators.sum(0) / sizes.sum(0)` over documents.

    `numerators` and `sizes` are (documents, columns); every column sees the same resampled documents, whole.
    The bootstrap's variance is short by (n - 1) / n, which is put back. NaN with fewer than two documents.
    """
    documents, columns = numerators.shape
    if documents < 2:
        return np.full(columns, np.nan)
    ratios = _resampled(numerators, sizes, rng, resamples)
    spread: Floats = ratios.std(axis=0, ddof=1) * np.sqrt(documents / (documents - 1))
    return spread


def document_covariance(
    numerators: Floats, sizes: Floats, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Floats:
    """The same bootstrap's covariance of the columns' ratios, (columns, columns); two documents or more."""
    documents = len(numerators)
    found = np.atleast_2d(np.cov(_resampled(numerators, sizes, rng, resamples), rowvar=False))
    return np.asarray(found * documents / (documents - 1), np.float64)


def documents_alone(error: float, differences: Floats, sizes: Floats) -> float:
    """The standard error over documents without what a document does in one seed only, which the seeds' error has too.

    `error` is that of the mean over seeds; `differences` are each seed's sums, (seeds, documents). From its variance
    the interaction's is taken, as in standard errors clustered in two ways (Cameron, Gelbach and Miller, JBES 29,
    2011), so that it is counted once. With one seed nothing tells it apart, and it stays.
    """
    seeds, documents = differences.shape
    if seeds < 2:
        return error
    left = differences - sizes * (differences.sum(axis=1, keepdims=True) / sizes.sum())
    left -= left.mean(axis=0)
    both = float((left**2).sum()) / seeds / (seeds - 1) * documents / (documents - 1) / float(sizes.sum()) ** 2
    return float(np.sqrt(max(0.0, error**2 - both)))


def documents_freedom(numerators: Floats, sizes: Floats) -> float:
    """Degrees of freedom of the standard error of `numerators.sum() / sizes.sum()` over two documents or more.

    Satterthwaite's (Biometrics Bulletin 2, 1946) for documents of unequal variance: with r a document's share of the
    linearised error, 3 sum(r^2)^2 / sum(r^4), at most n - 1. A few large documents, or a few that differ, are few draws
    however many others there are; normal errors of equal size give n.
    """
    most = float(len(sizes) - 1)
    left = np.abs(numerators - sizes * (numerators.sum() / sizes.sum()))
    if left.max() == 0:
        return most
    squares = (left / left.max()) ** 2  # so that no fourth power is lost below the smallest number
    return min(most, float(3 * squares.sum() ** 2 / (squares**2).sum()))


def unpaired_standard_error(variant: Floats, twin: Floats, sizes: Floats) -> float:
    """The standard error of the difference, had the two arms been scored on different documents; two or more of these.

    `variant` and `twin` are each document's sum, `sizes` its weight. It is the root of the sum of both arms' squared
    standard errors, each linearised (delta method): what lm-evaluation-harness's two `stderr` make of the difference.
    """
    documents = len(sizes)
    squares = 0.0
    for numerators in (variant, twin):
        left = numerators - sizes * (numerators.sum() / sizes.sum())
        squares += float((left**2).sum()) * documents / (documents - 1) / float(sizes.sum()) ** 2
    return float(np.sqrt(squares))


def seed_standard_error(variant: Floats, twin: Floats, arms: Floats) -> tuple[float | None, int | None]:
    """Standard error over seeds of the mean of `variant - twin`, and its degrees of freedom; (None, None) for one seed.

    `variant` and `twin` are one figure a seed; `arms` is (arms, seeds), those two among them.
    """
    return contrast_standard_error(variant - twin, 2.0, arms)


def contrast_standard_error(contrast: Floats, squares: float, arms: Floats) -> tuple[float | None, int | None]:
    """Standard error over seeds of the mean of `contrast`, and its degrees of freedom; (None, None) for one seed.

    `contrast` is, for each seed, a sum of arms whose weights sum to zero; `squares` is the sum of their squares.
    `arms` is (arms, seeds), those among them. Seeds are the blocks of a randomised block design: the error mean
    square left after arms and seeds are taken out has (arms - 1)(seeds - 1) degrees of freedom. Where the
    contrast's own spread is larger, that is taken instead.
    """
    count, seeds = arms.shape
    if seeds < 2:
        return None, None
    freedom = (count - 1) * (seeds - 1)
    left = arms - arms.mean(axis=0) - arms.mean(axis=1, keepdims=True) + arms.mean()
    pooled = squares * float((left**2).sum()) / freedom
    own = float(np.var(contrast, ddof=1))
    return float(np.sqrt(max(own, pooled) / seeds)), freedom


def interval(
    estimate: float,
    documents_error: float,
    documents_freedom: float,
    seeds_error: float | None,
    seeds_freedom: int | None,
    confidence: float,
) -> tuple[float, float]:
    """The ends of the two-sided interval around `estimate`.

    Its half width is the root of the sum of each source's squared standard error times its own squared Student
    quantile (Banerjee, Sankhya 22, 1960): it covers at least at `confidence` whichever source dominates.
    """
    level = 0.5 + confidence / 2
    square = (stats.t.ppf(level, documents_freedom) * documents_error) ** 2
    if seeds_error is not None:
        square += (stats.t.ppf(level, seeds_freedom) * seeds_error) ** 2
    half = float(np.sqrt(square))
    return estimate - half, estimate + half


def settling_seeds(
    distance: float,
    documents_error: float,
    documents_freedom: float,
    seeds_error: float,
    seeds: int,
    arms: int,
    confidence: float,
) -> int | None:
    """The fewest seeds, more than `seeds`, whose interval would be narrower than `distance` on either side.

    `distance` is from the estimate to the margin; estimate and spreads are taken to stay as measured, and each of the
    `arms` to be trained with every seed. None where more than `MOST_SEEDS` would be needed, however many those are.
    """
    for count in range(seeds + 1, MOST_SEEDS + 1):
        error = seeds_error * float(np.sqrt(seeds / count))
        low, _ = interval(0.0, documents_error, documents_freedom, error, (arms - 1) * (count - 1), confidence)
        if -low < abs(distance):
            return count
    return None
