"""What a variant's sharing is worth: the depth of the independent model that equals it, phi, the price of storage.

`docs/twins.md` says what each is. Every figure is a loss difference between arms, read on another scale, so each
has the interval that the comparisons have: by document and by seed.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import brentq

from sharelm.closed_form.footprint import footprint
from sharelm.sharing import ModelShape, Sharing
from sharelm.statistics.compare import ALL
from sharelm.statistics.intervals import (
    Floats,
    contrast_standard_error,
    document_covariance,
    documents_alone,
    documents_freedom,
    interval,
)
from sharelm.statistics.panel import Metric, Panel, build_panel
from sharelm.study import Arm, Plan
from sharelm.tables.messages import Message, as_json, message
from sharelm.tables.rows import SharingWorthRow, table_of

DEPTH_EXPONENT = 0.34  # loss falls with the parameters to about this power (Hoffmann et al., arXiv 2203.15556)
_LARGEST_PHI = 50.0
_GRID = 200  # depths tried on the way to an end of the interval; between two of them a straight line is taken

Ends = tuple[float | None, float | None]


@dataclass(frozen=True)
class _Quantity:
    """One figure of a variant, and why it or an end of its interval is missing."""

    name: str
    value: float | None = None
    ends: Ends = (None, None)
    why: Message | None = None
    removed_percent: float | None = None


def _why(code: str, **figures: int) -> Message:
    return message("worth", code, **figures)


@cache
def _block_parameters(shape: ModelShape) -> tuple[int, int]:
    """Parameters of one attention and of one feed-forward block: what storing one more of them adds."""
    single, attention, feed_forward = (
        footprint(shape, Sharing(*schedules)).stored_parameters
        for schedules in (((0, 0), (0, 0)), ((0, 1), (0, 0)), ((0, 0), (0, 1)))
    )
    return attention - single, feed_forward - single


def effective_depth(arm: Arm, phi: float) -> float:
    """The number of unique blocks the arm is worth when one that is read r times is worth r^phi.

    An attention and a feed-forward block count by their parameters, together as one. The stored depth at phi = 0,
    the whole depth at phi = 1 (Iso-depth scaling laws, arXiv 2604.21106).
    """
    sizes, schedules = _block_parameters(arm.shape), (arm.sharing.attention, arm.sharing.feed_forward)
    blocks = [sum(math.pow(reads, phi) for reads in Counter(schedule).values()) for schedule in schedules]
    return sum(size * count for size, count in zip(sizes, blocks, strict=True)) / sum(sizes)


def phi_of(arm: Arm, depth: float) -> float | None:
    """The phi at which the arm is worth this depth; None where no phi gives it: nothing loops, or too few are left."""
    reads = [count for s in (arm.sharing.attention, arm.sharing.feed_forward) for count in Counter(s).values()]
    if max(reads) == 1 or not effective_depth(arm, -_LARGEST_PHI) < depth < effective_depth(arm, _LARGEST_PHI):
        return None
    return float(brentq(lambda phi: effective_depth(arm, phi) - depth, -_LARGEST_PHI, _LARGEST_PHI, xtol=1e-12))


@dataclass(frozen=True)
class _Losses:
    """Held-out losses of some arms, over the seeds that all of them have."""

    panel: Panel
    metric: Metric
    names: Sequence[str]
    seeds: list[int]
    task: str
    confidence: float
    compared: frozenset[str]  # arms of comparisons; a rung's spread over seeds enters only what rests on rungs

    @cached_property
    def figures(self) -> Floats:
        """Nats per token, (arms, seeds)."""
        return np.stack([self.metric.figures(self.panel.rows(name, self.seeds)) for name in self.names])

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self.metric.sizes)

    @cached_property
    def _sums(self) -> Floats:
        """Each document's sums, (seeds, documents, arms)."""
        return np.stack([self.metric.numerators[self.panel.rows(name, self.seeds)] for name in self.names], axis=2)

    @cached_property
    def _covariance(self) -> Floats:
        """Over documents, of the arms' mean losses; the documents drawn are those of the comparisons."""
        sizes = np.repeat(self.metric.sizes[:, None], len(self.names), axis=1)
        rng = np.random.default_rng([zlib.crc32(self.task.encode()), zlib.crc32(ALL.encode())])
        return document_covariance(self._sums.mean(axis=0), sizes, rng)

    @cached_property
    def _pool(self) -> Floats:
        arms = [arm for arm in self.panel.arms_with(self.seeds) if arm in self.compared.union(self.names)]
        return np.stack([self.metric.figures(self.panel.rows(arm, self.seeds)) for arm in arms])

    def contrast(self, weights: Floats) -> tuple[float, float, float]:
        """The weighted sum of the arms' losses and the ends of its interval; the weights sum to zero.

        The ends are infinitely far with fewer than two documents.
        """
        by_seed = weights @ self.figures
        estimate = float(by_seed.mean())
        if self.documents < 2:
            return estimate, -math.inf, math.inf
        error = math.sqrt(max(0.0, float(weights @ self._covariance @ weights)))
        seeds_error, freedom = contrast_standard_error(by_seed, float(weights @ weights), self._pool)
        sums = self._sums @ weights
        error = documents_alone(error, sums, self.metric.sizes)
        rests_on = documents_freedom(sums.mean(axis=0), self.metric.sizes)
        return estimate, *interval(estimate, error, rests_on, seeds_error, freedom, self.confidence)


def _on_the_ladder(depths: Floats, depth: float) -> Floats:
    """Each rung's weight in the ladder's loss at this depth.

    Between two neighbouring rungs the loss is a + b * depth^-0.34, so that no fit reaches past its neighbours.
    """
    at = int(np.clip(np.searchsorted(depths, depth, side="right") - 1, 0, len(depths) - 2))
    low, here, high = (x**-DEPTH_EXPONENT for x in (depths[at], depth, depths[at + 1]))
    weights = np.zeros(len(depths))
    weights[at + 1] = (low - here) / (low - high)
    weights[at] = 1 - weights[at + 1]
    return weights


def _against_ladder(losses: _Losses, depths: Floats, depth: float) -> tuple[float, float, float]:
    """The variant's loss less the ladder's at this depth, with its interval; the variant is the first arm."""
    return losses.contrast(np.concatenate([[1.0], -_on_the_ladder(depths, depth)]))


def _equal_depth(losses: _Losses, depths: Floats) -> tuple[float | None, Message | None]:
    """The depth at which the ladder has the variant's loss, or why there is none."""
    variant, *rungs = losses.figures.mean(axis=1).tolist()
    worse = [loss > variant for loss in rungs]
    if all(worse):
        return None, _why("below_deepest", depth=int(depths[-1]))
    if not any(worse):
        return None, _why("not_below_shallowest", depth=int(depths[0]))
    at = worse.index(False)
    if any(worse[at:]) or at == 0:
        return None, _why("ladder_does_not_fall")

    def ahead(depth: float) -> float:
        return _against_ladder(losses, depths, depth)[0]

    return float(brentq(ahead, depths[at - 1], depths[at], xtol=1e-12)), None


def _end(losses: _Losses, depths: Floats, start: float, stop: float) -> float | None:
    """Going from `start` to `stop`, where the ladder's loss first differs from the variant's; None if it never does."""
    grid = np.geomspace(start, stop, _GRID)
    clear = []
    for depth in grid:
        _, low, high = _against_ladder(losses, depths, float(depth))
        clear.append(max(low, -high))  # above zero where the interval leaves zero out
        if clear[-1] > 0:
            break
    else:
        return None
    if len(clear) == 1:
        return start
    share = clear[-2] / (clear[-2] - clear[-1]) if math.isfinite(clear[-2]) else 1.0
    return float(grid[len(clear) - 2] + share * (grid[len(clear) - 1] - grid[len(clear) - 2]))


def _depth(variant: Arm, rungs: list[Arm], losses: _Losses | None) -> Iterator[_Quantity]:
    """The depth the variant is worth, and phi."""
    depth: float | None = None
    ends: Ends = (None, None)
    why: Message | None
    if losses is None:
        why = _why("unscored")
    elif len(rungs) < 2:
        why = _why("too_few_rungs", count=len(rungs))
    else:
        depths = np.array([rung.sharing.depth for rung in rungs], np.float64)
        depth, why = _equal_depth(losses, depths)
        if depth is not None:
            ends = _end(losses, depths, depth, depths[0]), _end(losses, depths, depth, depths[-1])
        if depth is not None and None in ends:
            beyond = _why("beyond_ladder", shallowest=int(depths[0]), deepest=int(depths[-1]))
            why = _why("one_document") if losses.documents < 2 else beyond
    yield _Quantity("effective_depth", depth, ends, why)
    phi = None if depth is None else phi_of(variant, depth)
    if depth is not None and phi is None:
        looped = effective_depth(variant, -_LARGEST_PHI) < effective_depth(variant, 0) - 1e-9
        why = _why("loops_add_nothing" if looped else "no_loop")
    low, high = (None if phi is None or end is None else phi_of(variant, end) for end in ends)
    yield _Quantity("phi", phi, (low, high), why)


def _perplexity_percent(nats: float) -> float:
    return 100 * math.expm1(nats)


def _price(variant: Arm, twin: Arm, losses: _Losses | None) -> Iterator[_Quantity]:
    """Loss for each per cent of parameters that the same-depth twin stores and the variant does not."""
    sizes = {
        "stored": [arm.footprint.stored_parameters for arm in (variant, twin)],
        "of_blocks": [arm.footprint.stored_parameters - arm.footprint.embedding_parameters for arm in (variant, twin)],
    }
    for counted, (ours, theirs) in sizes.items():
        removed = 100 * (1 - ours / theirs)
        for unit, scale in (("nats", float), ("perplexity", _perplexity_percent)):
            found = _Quantity(f"{unit}_per_percent_{counted}", removed_percent=removed)
            if losses is None:
                yield replace(found, why=_why("no_common_seed"))
            elif removed <= 0:
                yield replace(found, why=_why("stores_no_fewer"))
            else:
                value, low, high = (scale(nats) / removed for nats in losses.contrast(np.array([1.0, -1.0])))
                alone = _why("one_document") if losses.documents < 2 else None
                yield replace(found, value=value, ends=(None, None) if alone else (low, high), why=alone)


def worth(plan: Plan, scores: pa.Table) -> pa.Table:
    """What each variant's sharing is worth and costs: a table of the `sharing_worth` schema.

    `scores` is what `compare` takes. The ladder is made of the study's independent arms of the reference's shape and
    tokens, whatever brought them in; a rung counts where it has every seed of the variant.
    """
    study, pairs = plan.study, plan.comparisons
    task = study.evaluation.deciding
    panel = build_panel(scores.filter(pc.equal(scores["task"], task.name)), task.kind)
    metric, confidence = panel.deciding, study.kpi.accuracy.confidence
    by_name = {arm.name: arm for arm in plan.arms}
    twins = {pair.variant: by_name[pair.twin] for pair in pairs if pair.axis == "depth"}
    ladder = [
        arm
        for arm in sorted(by_name.values(), key=lambda arm: arm.sharing.depth)
        if arm.role != "variant" and (arm.shape, arm.tokens) == (study.shape, study.training.tokens)
    ]

    compared = frozenset(arm for pair in pairs for arm in (pair.variant, pair.twin))

    def losses(names: list[str]) -> _Losses | None:
        seeds = panel.common_seeds(*names)
        if not seeds or not len(metric.sizes):
            return None
        return _Losses(panel, metric, names, seeds, task.name, confidence, compared)

    rows: list[SharingWorthRow] = []
    for variant in (arm for arm in by_name.values() if arm.role == "variant"):
        mine = set(panel.common_seeds(variant.name))
        rungs = [rung for rung in ladder if mine and mine <= set(panel.common_seeds(rung.name))]
        twin = twins[variant.name]
        parts = (
            (partial(_depth, variant, rungs), rungs),
            (partial(_price, variant, twin), [twin]),
        )
        for make, others in parts:
            against = [arm.name for arm in others]
            measured = losses([variant.name, *against])
            rows += [
                SharingWorthRow(
                    variant=variant.name,
                    quantity=found.name,
                    value=found.value,
                    interval_low=found.ends[0],
                    interval_high=found.ends[1],
                    confidence=confidence,
                    against=against,
                    removed_percent=found.removed_percent,
                    seeds=len(measured.seeds) if measured else 0,
                    documents=measured.documents if measured else 0,
                    code=found.why["code"] if found.why else None,
                    figures_json=as_json(found.why["figures"] if found.why else {}),
                )
                for found in make(measured)
            ]
    return table_of(SharingWorthRow, rows)
