"""Whether intervals cover, claims are right and power is as planned: `python -m benchmarks.coverage --studies 2000`.

Simulates studies whose truth is known. Seeds, documents and answers move as far as in the committed English study
(`spreads.json`, made by `benchmarks.spreads`); document effects are skewed and document sizes as uneven as there; two
tasks of unequal size are scored. Every study has a reference, four variants and a twin of equal parameters for each:
nine arms and a family of eight losses. In half of the cells one variant spreads three times as far over seeds as the
others. The difference of all losses is zero, or at the margin, or at the margin on the depth axis and far better on the
other, which leaves Holm's family first. The margin is where the plan promises a power of 80 %.

The code that is tried is that of `sharelm.statistics`: standard errors, claims and power. It needs numpy and scipy
only. Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import ndtri

from sharelm.statistics.claims import Estimate, claims
from sharelm.statistics.intervals import (
    RESAMPLES,
    Floats,
    document_standard_errors,
    documents_alone,
    documents_freedom,
    seed_standard_error,
)
from sharelm.statistics.power import Design, Spread, detectable, power

VARIANTS = ("albert", "cycle", "atoms", "relaxed-64")
NAMED = 1 + 2 * len(VARIANTS)  # arms: the reference, the variants, their twins of equal parameters
FAMILY = 2 * len(VARIANTS)  # comparisons: each variant with the reference (depth), then each with its twin
NOISY = (0, len(VARIANTS))  # the comparisons of the first variant, whose spread is threefold in half of the cells
TIMES = 3.0
CONFIDENCE, WANTED, TASK_MARGIN = 0.95, 0.8, 0.02
LEVEL = (1 - CONFIDENCE) / 2 / FAMILY  # of the first claim of its kind
TRUTHS = ("zero", "margin", "mixed")
IN_DOCUMENT = 0.3  # share of an answer's chance that its document decides; assumed, not measured
STUDIES_AT_ONCE = 10


@dataclass(frozen=True)
class Cell:
    """Studies of one kind."""

    seeds: int
    noisy: bool
    truth: str


@cache
def spreads() -> dict[str, Any]:
    """The measured spreads."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("spreads.json").read_text())
    return found


def _drawn(quantiles: list[float], count: int, rng: np.random.Generator) -> Floats:
    """Sizes from the measured distribution."""
    return np.interp(rng.random(count), np.linspace(0, 1, len(quantiles)), quantiles)


def _effects(variances: list[float], sizes: Floats, rng: np.random.Generator) -> Floats:
    """What documents add to a figure, skewed as 1 + Exponential is: its two parts have these variances."""
    common, falling = np.sqrt(variances)[:, None] * (rng.exponential(size=(2, len(sizes))) - 1)
    found: Floats = common + falling * np.sqrt(sizes.mean() / sizes)
    return found


def _pair(comparison: int) -> list[float]:
    """The measured variances of the documents' differences in a comparison."""
    variant, loss = VARIANTS[comparison % len(VARIANTS)], spreads()["loss"]
    depth = f"{variant} - independent"
    names = [name for name in loss["pairs"] if name.startswith(f"{variant} - ") and (name == depth) == (comparison < 4)]
    found: list[float] = loss["pairs"][names[0]]
    return found


def _rests_on(common: float, falling: float) -> float:
    """The share of documents that a pilot finds the error to rest on, the median of some pilots."""
    loss, rng, found = spreads()["loss"], np.random.default_rng(1), []
    for _ in range(50):
        sizes = _drawn(loss["tokens_quantiles"], loss["documents"], rng)
        found.append(documents_freedom(sizes * _effects([common, falling], sizes, rng), sizes) / len(sizes))
    return float(np.median(found))


@cache
def _planned(seeds: int) -> tuple[float, tuple[Spread, ...]]:
    """The margin of studies with so many seeds, and each comparison's spread as a pilot of the same kind finds it."""
    loss = spreads()["loss"]
    # the mean of many draws: sizes and with them the weight of the largest document differ from study to study
    sizes = _drawn(loss["tokens_quantiles"], 200_000, np.random.default_rng(0))
    unevenness = float((sizes**2).mean() / sizes.mean() ** 2)
    found = []
    for comparison in range(FAMILY):
        common, falling = np.array(_pair(comparison))
        found.append(Spread(loss["seeds_nats"], math.sqrt(common * unevenness + falling), _rests_on(common, falling)))
    middle = sorted(found, key=lambda spread: spread.documents)[FAMILY // 2]
    return detectable(middle, Design(NAMED, seeds, loss["documents"], LEVEL), WANTED), tuple(found)


def _truths(cell: Cell) -> Floats:
    """The true difference of every comparison, in nats."""
    margin, _ = _planned(cell.seeds)
    depth = 0.0 if cell.truth == "zero" else margin
    return np.repeat([depth, -10 * margin if cell.truth == "mixed" else depth], len(VARIANTS))


def _losses(cell: Cell, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Nats a token of (arms, seeds, documents), and the documents' tokens.

    Arms are the reference, the variants and their twins. What all arms share of a seed or a document is left out: it
    falls out of every difference.
    """
    loss, count, truths = spreads()["loss"], len(VARIANTS), _truths(cell)
    sizes = _drawn(loss["tokens_quantiles"], loss["documents"], rng)
    # the measured spread over seeds has the documents' noise in it
    unevenness = (sizes**2).mean() / sizes.mean() ** 2
    noise = (loss["noise"][0] * unevenness + loss["noise"][1]) / len(sizes)
    by_seed = math.sqrt(max(0.0, loss["seeds_nats"] ** 2 - noise)) * rng.standard_normal((NAMED, cell.seeds, 1))
    if cell.noisy:
        by_seed[1] *= TIMES
    by_document = np.zeros((NAMED, 1, len(sizes)))
    for at in range(count):
        by_document[1 + at] = truths[at] + _effects(_pair(at), sizes, rng)
        by_document[1 + count + at] = by_document[1 + at] - truths[count + at] - _effects(_pair(count + at), sizes, rng)
    parts = np.sqrt(loss["noise"])
    both = parts[0] * rng.standard_normal((NAMED, cell.seeds, len(sizes)))
    both += parts[1] * np.sqrt(sizes.mean() / sizes) * rng.standard_normal(both.shape)
    return by_seed + by_document + both, sizes


@cache
def _agreement() -> float:
    """The correlation of two seeds' chances to answer right, which gives the share of answers in which they differ."""
    accuracy = spreads()["accuracy"]
    right, apart = accuracy["share_right"], accuracy["seeds_disagree"]
    cut = ndtri(right)

    def excess(correlation: float) -> float:
        both = stats.multivariate_normal.cdf([cut, cut], cov=[[1, correlation], [correlation, 1]])
        return 2 * (right - float(both)) - apart

    return float(brentq(excess, 0.0, 0.9999))


def _answers(cell: Cell, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Right answers of (arms, seeds, documents), the documents' items, and every comparison's true difference.

    An answer is right where a normal chance is below the arm's own cut, so that the truth is exact.
    """
    accuracy, count = spreads()["accuracy"], len(VARIANTS)
    items = np.maximum(1, _drawn(accuracy["items_quantiles"], accuracy["documents"], rng).round()).astype(int)
    of_document = np.repeat(np.arange(len(items)), items)
    shared, own = _agreement(), 1 - _agreement()

    def chances(variance: float, shape: tuple[int, ...]) -> Floats:
        document = rng.standard_normal((*shape, len(items)))[..., of_document]
        item = rng.standard_normal((*shape, len(of_document)))
        return np.sqrt(variance) * (math.sqrt(IN_DOCUMENT) * document + math.sqrt(1 - IN_DOCUMENT) * item)

    # beyond what answers scatter, seeds move an arm's cut so far that its accuracy moves as measured
    scatter = accuracy["seeds_disagree"] / 2 / len(of_document)
    moved = math.sqrt(max(0.0, accuracy["seeds"] ** 2 - scatter)) / stats.norm.pdf(ndtri(accuracy["share_right"]))
    by_seed = moved * rng.standard_normal((NAMED, cell.seeds, 1))
    if cell.noisy:
        by_seed[1] *= TIMES
    truths = np.zeros(FAMILY) if cell.truth == "zero" else np.repeat(-TASK_MARGIN, FAMILY)
    variants = accuracy["share_right"] + truths[:count]
    rates = np.concatenate([[accuracy["share_right"]], variants, variants - truths[count:]])
    spread = np.sqrt(1 + np.where(np.arange(NAMED) == int(cell.noisy), (TIMES if cell.noisy else 1) ** 2, 1) * moved**2)
    cuts = (ndtri(rates) * spread)[:, None, None]
    right = chances(shared, (1, 1)) + chances(own, (NAMED, cell.seeds)) + by_seed < cuts
    sums = np.add.reduceat(right, np.concatenate([[0], np.cumsum(items)[:-1]]), axis=2, dtype=float)
    return sums, items.astype(float), truths


def _estimates(sums: Floats, sizes: Floats, rng: np.random.Generator, resamples: int) -> list[Estimate]:
    """Every comparison as `sharelm.statistics.compare` makes it of one task's sums, (arms, seeds, documents)."""
    count = len(VARIANTS)
    pairs = [(1 + at, 0) for at in range(count)] + [(1 + at, 1 + count + at) for at in range(count)]
    figures = sums.sum(axis=2) / sizes.sum()
    differences = np.stack([(sums[a] - sums[b]).mean(axis=0) for a, b in pairs], axis=1)
    errors = document_standard_errors(differences, np.repeat(sizes[:, None], FAMILY, axis=1), rng, resamples)
    found = []
    for at, ((a, b), error) in enumerate(zip(pairs, errors.tolist(), strict=True)):
        rests_on = documents_freedom(differences[:, at], sizes)
        error = documents_alone(error, sums[a] - sums[b], sizes)
        seeds_error, freedom = seed_standard_error(figures[a], figures[b], figures)
        found.append(Estimate(float((figures[a] - figures[b]).mean()), error, rests_on, seeds_error, freedom))
    return found


def judged(cell: Cell, rng: np.random.Generator, resamples: int) -> Iterator[str]:
    """What is to be counted of one simulated study."""
    margin, _ = _planned(cell.seeds)
    losses, sizes = _losses(cell, rng)
    family, truths = _estimates(losses * sizes, sizes, rng, resamples), _truths(cell)
    found = claims(family, margin, CONFIDENCE)
    for at, (one, claim, truth) in enumerate(zip(family, found, truths.tolist(), strict=True)):
        who = "noisy" if cell.noisy and at in NOISY else "like"
        low, high = one.ends(CONFIDENCE)
        yield f"{who} losses"
        if low <= truth <= high:
            yield f"{who} losses covered"
        if one.ends(1 - 2 * LEVEL)[1] < margin:
            yield "kept at the first level"
        if claim.outcome in ("better", "not_worse"):
            yield "kept"
    at_margin = [claim for claim, truth in zip(found, truths.tolist(), strict=True) if truth == margin]
    if any(claim.outcome in ("better", "not_worse") for claim in at_margin):
        yield "some wrongly kept"
    if any(claim.outcome == "worse" for claim in at_margin):
        yield "some wrongly worse"
    if cell.truth == "zero" and any(claim.outcome == "better" for claim in found):
        yield "some wrongly better"
    right, items, task_truths = _answers(cell, rng)
    for at, (one, truth) in enumerate(zip(_estimates(right, items, rng, resamples), task_truths.tolist(), strict=True)):
        who = "noisy" if cell.noisy and at in NOISY else "like"
        low, high = one.ends(CONFIDENCE)
        yield f"{who} accuracies"
        if low <= truth <= high:
            yield f"{who} accuracies covered"


def _chunk(task: tuple[Cell, int, int, int]) -> tuple[Cell, Counter[str]]:
    """Counts of some studies of a cell; their random numbers depend on the cell and the first study's number only."""
    cell, first, studies, resamples = task
    rng = np.random.default_rng([cell.seeds, int(cell.noisy), TRUTHS.index(cell.truth), first])
    counts: Counter[str] = Counter(studies=studies)
    for _ in range(studies):
        counts.update(judged(cell, rng, resamples))
    return cell, counts


def _power(cell: Cell, counts: Counter[str]) -> dict[str, float]:
    """The power that was planned, the mean over comparisons, and what came of it."""
    margin, planned = _planned(cell.seeds)
    design = Design(NAMED, cell.seeds, spreads()["loss"]["documents"], LEVEL)
    return {
        "power_planned": float(np.mean([power(spread, design, margin) for spread in planned])),
        "power_at_first_level": counts["kept at the first level"] / (FAMILY * counts["studies"]),
        "power_with_holm": counts["kept"] / (FAMILY * counts["studies"]),
    }


def summary(cell: Cell, counts: Counter[str]) -> dict[str, Any]:
    """The shares of one cell; `None` where the cell has nothing of the kind."""
    row: dict[str, Any] = {"seeds": cell.seeds, "noisy": cell.noisy, "truth": cell.truth, "studies": counts["studies"]}
    for who in ("like", "noisy"):
        for kind in ("losses", "accuracies"):
            all_of = counts[f"{who} {kind}"]
            row[f"{kind}_{who}_covered"] = counts[f"{who} {kind} covered"] / all_of if all_of else None
    for wrong in ("kept", "worse") if cell.truth != "zero" else ("better",):
        row[f"wrongly_{wrong}"] = counts[f"some wrongly {wrong}"] / counts["studies"]
    return row | (_power(cell, counts) if cell.truth == "zero" and not cell.noisy else {})


COLUMNS = {
    "losses_like_covered": "loss",
    "losses_noisy_covered": "noisy",
    "accuracies_like_covered": "accuracy",
    "accuracies_noisy_covered": "noisy",
    "wrongly_kept": "kept",
    "wrongly_worse": "worse",
    "wrongly_better": "better",
    "power_planned": "plan",
    "power_at_first_level": "came",
    "power_with_holm": "Holm",
}


def main() -> None:
    """Simulate, and print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="of each cell")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4, 5])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap over documents")
    options = parser.parse_args()
    started = time.monotonic()
    cells = [Cell(seeds, noisy, truth) for seeds in options.seeds for noisy in (False, True) for truth in TRUTHS]
    tasks = [
        (cell, first, min(STUDIES_AT_ONCE, options.studies - first), options.resamples)
        for first in range(0, options.studies, STUDIES_AT_ONCE)
        for cell in cells
    ]
    totals: dict[Cell, Counter[str]] = {cell: Counter() for cell in cells}
    # Workers are as many as there are cores; started anew, each reads this before it loads its linear algebra.
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        for cell, counts in pool.map(_chunk, tasks):
            totals[cell].update(counts)
    rows = [summary(cell, counts) for cell, counts in totals.items()]
    print(f"{'':22} covered at {CONFIDENCE:.0%} by                  some in the family wrongly  kept at zero")
    print(f"{'seeds, spread, truth':22} " + " ".join(f"{name:>8}" for name in COLUMNS.values()))
    for row in rows:
        shares = (f"{row[name]:8.1%}" if row.get(name) is not None else " " * 8 for name in COLUMNS)
        print(f"{row['seeds']} {'one threefold' if row['noisy'] else 'alike':13} {row['truth']:6} " + " ".join(shares))
    margins = {seeds: _planned(seeds)[0] for seeds in options.seeds}
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"benchmark": "coverage", "margins_nats": margins, "seconds": seconds, "rows": rows}))


if __name__ == "__main__":
    main()
