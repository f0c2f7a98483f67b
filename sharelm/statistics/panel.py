"""Pairing: the scores of one task as trials by documents, refused where two trials saw different documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sharelm.errors import InputError
from sharelm.metrics import DECIDING
from sharelm.statistics.intervals import Floats
from sharelm.tables.rows import ScoreRow, rows_of
from sharelm.tasks import TASK_KINDS


@dataclass(frozen=True)
class Metric:
    """A ratio of sums over documents: numerators (trials, documents) over sizes (documents)."""

    name: str
    numerators: Floats
    sizes: Floats

    def figures(self, trials: list[int]) -> Floats:
        """The metric's figure for each of these trials, over all documents."""
        figures: Floats = self.numerators[trials].sum(axis=1) / self.sizes.sum()
        return figures


@dataclass(frozen=True)
class Panel:
    """The metrics of one task, or of one domain of it; `trials` says which row is which (arm, seed)."""

    trials: dict[tuple[str, int], int]
    metrics: list[Metric]

    @property
    def deciding(self) -> Metric:
        """The metric that the verdict rests on first."""
        return next(metric for metric in self.metrics if metric.name == DECIDING.name)

    def common_seeds(self, *arms: str) -> list[int]:
        """The seeds that all these arms have, in order."""
        return sorted(set.intersection(*({seed for arm, seed in self.trials if arm == wanted} for wanted in arms)))

    def rows(self, arm: str, seeds: list[int]) -> list[int]:
        """Where this arm's trials of these seeds are."""
        return [self.trials[arm, seed] for seed in seeds]

    def arms_with(self, seeds: list[int]) -> list[str]:
        """The arms that have every one of these seeds, in order of name."""
        return [arm for arm in sorted({arm for arm, _ in self.trials}) if all((arm, s) in self.trials for s in seeds)]


def _coded(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """The sorted distinct strings of a column, and for each row the place of its string among them."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    names = encoded.dictionary.to_pylist()
    ordered = sorted(names)
    place = {name: at for at, name in enumerate(ordered)}
    places = np.array([place[name] for name in names], np.int64)
    return ordered, places[encoded.indices.to_numpy(zero_copy_only=False)] if names else places


def _numbers(rows: pa.Table, column: str) -> Floats:
    found: Floats = pc.cast(rows[column], pa.float64()).to_numpy()
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        (at,) = rows_of(ScoreRow, rows.slice(int(wrong[0]), 1))
        value = getattr(at, column)
        raise InputError(f"scores: {column} = {value} for trial {at.trial}, task {at.task}, document {at.document}")
    return found


def build_panel(rows: pa.Table, kind: str) -> Panel:
    """The panel of these rows of the `scores` table, all of one task of this kind.

    Documents without a scored token or byte are left out. Raises `InputError` where trials differ in documents,
    items, tokens or bytes, where an item is there twice, and where a score is null or not finite.
    """
    arms, arm = _coded(rows["arm"])
    documents, document = _coded(rows["document"])
    seed, item = rows["seed"].to_numpy(), rows["item"].to_numpy()
    seeds, seed_place = np.unique(seed, return_inverse=True)
    present, trial = np.unique(arm * len(seeds) + seed_place, return_inverse=True)
    keys = [(arms[code // len(seeds)], int(seeds[code % len(seeds)])) for code in present.tolist()]
    cell = trial * len(documents) + document
    order = np.lexsort((item, cell))  # so that the order of rows cannot move a rounding
    cell, item = cell[order], item[order]

    repeated = np.flatnonzero((np.diff(cell) == 0) & (np.diff(item) == 0))
    if len(repeated):
        (at,) = rows_of(ScoreRow, rows.slice(int(order[repeated[0]]), 1))
        raise InputError(
            f"scores: item {at.item} of document {at.document}, task {at.task}, is there twice for trial {at.trial}"
        )

    def sums(values: Floats | None) -> Floats:
        weights = None if values is None else values[order]
        counts = np.bincount(cell, weights, minlength=len(keys) * len(documents))
        return counts.reshape(len(keys), len(documents)).astype(np.float64)

    def same(found: Floats, what: str) -> Floats:
        wrong = np.argwhere(found != found[:1])
        if len(wrong):
            at, where = wrong[0]
            raise InputError(
                f"scores: trials must be scored on the same documents, but {documents[where]} of task "
                f"{rows['task'][0].as_py()} has {found[0, where]:g} {what} for arm {keys[0][0]}, seed {keys[0][1]}, "
                f"and {found[at, where]:g} for arm {keys[at][0]}, seed {keys[at][1]}"
            )
        return found[0] if len(found) else np.empty(0)

    items = same(sums(None), "items")
    given = TASK_KINDS[kind].metrics
    sizes = {"items": items}
    numerators = {name: sums(_numbers(rows, name)) for name in dict.fromkeys(metric.numerator for metric in given)}
    for metric in given:
        if metric.size not in sizes:
            sizes[metric.size] = same(sums(_numbers(rows, metric.size)), metric.size)
    scored = np.all([size > 0 for size in sizes.values()], axis=0)
    metrics = [
        Metric(metric.name, numerators[metric.numerator][:, scored] / metric.divisor, sizes[metric.size][scored])
        for metric in given
    ]
    return Panel({key: at for at, key in enumerate(keys)}, metrics)
