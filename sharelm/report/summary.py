"""Tables to figures per arm: what the page, the Markdown and the JSON all show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sharelm.study import Arm, Comparison, Plan
from sharelm.tables.rows import (
    ComparisonRow,
    CostRow,
    DistanceRow,
    Finding,
    Row,
    SharingWorthRow,
    TrialRow,
    TuningRow,
    rows_of,
)
from sharelm.tasks import TASK_KINDS

_BINS = 90


@dataclass(frozen=True)
class MeanCost:
    """What one arm costs to serve one workload on one device: where, then means over its seeds, then their number."""

    workload: str
    device: str
    precision: str
    batch: int
    prompt_tokens: int
    new_tokens: int
    currency: str
    prefill_ms_p50: float | None
    prefill_ms_p95: float | None
    decode_ms_p50: float | None
    decode_ms_p95: float | None
    generated_tokens_per_second: float | None
    load_seconds: float | None
    disk_bytes: float | None
    weights_bytes: float | None
    kv_bytes: float | None
    rest_bytes: float | None
    peak_bytes: float | None
    cost_per_1m_tokens: float | None
    seeds: int


_WHERE = ("workload", "device", "precision", "batch", "prompt_tokens", "new_tokens", "currency")
_MEANS = [field.name for field in fields(MeanCost) if field.name not in (*_WHERE, "seeds")]


@dataclass(frozen=True)
class ArmFigures:
    """One arm: what it is in closed form, and what was measured; None or empty where nothing was."""

    arm: Arm
    trials: list[TrialRow]  # by seed
    losses: dict[int, float]  # held-out nats per token, by seed
    costs: list[MeanCost]  # one a workload and device
    accuracies: dict[str, float]  # by task, mean over seeds

    @property
    def loss(self) -> float | None:
        """Held-out nats per token, mean over seeds."""
        return mean(self.losses.values())

    @property
    def stored_bytes(self) -> float | None:
        """Bytes of the weights file."""
        return mean(row.weights_bytes for row in self.trials)

    @property
    def epochs(self) -> float | None:
        """How often its training saw the corpora; above 1 data repeats."""
        return mean(row.epochs for row in self.trials if row.status == "done")

    @property
    def training_cost(self) -> float | None:
        """Money one training run cost, mean over seeds."""
        return mean(row.training_cost for row in self.trials if row.status == "done")


@dataclass(frozen=True)
class LossCurve:
    """Training loss of one arm in bins of tokens: mean, lowest and highest seed."""

    tokens: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Summary:
    """Everything the report shows, in the study's order."""

    arms: list[ArmFigures]
    verdicts: list[Finding]
    comparisons: list[ComparisonRow]
    worth: list[SharingWorthRow]
    pairs: list[Comparison]  # each variant with its twin on an axis, and how well they are matched
    curves: dict[str, LossCurve]
    tunings: list[TuningRow]
    distances: list[DistanceRow]  # how far apart softly tied depths ended up
    missing: list[str]  # trials of the study that have no row


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the finite values; None without any."""
    finite = [v for v in values if v is not None and math.isfinite(v)]
    return sum(finite) / len(finite) if finite else None


@dataclass(frozen=True)
class _TaskScore(Row):
    """The scores of one trial on one task, as Arrow sums them."""

    arm: str
    seed: int
    kind: str
    task: str
    nll_nats_sum: float
    tokens_sum: int
    correct_mean: float | None


_R = TypeVar("_R", TrialRow, CostRow, _TaskScore)


def _by_arm(rows: Iterable[_R]) -> dict[str, list[_R]]:
    found: dict[str, list[_R]] = {}
    for row in rows:
        found.setdefault(row.arm, []).append(row)
    return found


def _task_scores(scores: pa.Table) -> list[_TaskScore]:
    keys = ["arm", "seed", "kind", "task"]
    grouped = scores.group_by(keys).aggregate([("nll_nats", "sum"), ("tokens", "sum"), ("correct", "mean")])
    return sorted(rows_of(_TaskScore, grouped), key=lambda row: (row.seed, row.task))


def _costs(rows: list[CostRow]) -> list[MeanCost]:
    grouped: dict[tuple[Any, ...], list[CostRow]] = {}
    for row in rows:
        grouped.setdefault(tuple(getattr(row, name) for name in _WHERE), []).append(row)
    found = []
    for where, group in grouped.items():
        means = {name: mean(getattr(row, name) for row in group) for name in _MEANS}
        columns: dict[str, Any] = dict(zip(_WHERE, where, strict=True)) | means
        found.append(MeanCost(**columns, seeds=len({row.seed for row in group})))
    return found


def loss_curves(steps: pa.Table) -> dict[str, LossCurve]:
    """Per arm, the loss averaged in logarithmic bins of tokens (which smooths and thins), over its seeds."""
    if not steps.num_rows:
        return {}
    last = pc.max(steps["tokens"]).as_py()
    first = max(pc.min(steps["tokens"]).as_py(), last / 20)  # the fall from chance would hide what tells the arms apart
    edges = np.geomspace(first, last * (1 + 1e-9), _BINS + 1)
    curves = {}
    for arm in sorted(pc.unique(steps["arm"]).to_pylist()):
        mine = steps.filter(pc.equal(steps["arm"], arm))
        tokens, loss, seed = (
            mine[name].to_numpy(zero_copy_only=False).astype(float) for name in ("tokens", "loss_nats", "seed")
        )
        usable = np.isfinite(loss) & (tokens >= first)
        bins = np.clip(np.searchsorted(edges, tokens, side="right") - 1, 0, _BINS - 1)
        rows = []
        for number in np.unique(bins[usable]):
            here = usable & (bins == number)
            seeds = [float(loss[here & (seed == s)].mean()) for s in np.unique(seed[here])]
            rows.append((float(tokens[here].mean()), sum(seeds) / len(seeds), min(seeds), max(seeds)))
        if rows:
            curves[arm] = LossCurve(*map(list, zip(*rows, strict=True)))
    return curves


def summarise(plan: Plan, tables: Mapping[str, pa.Table]) -> Summary:
    """The figures of every arm of the study, and the rows of its verdict, in the study's order."""
    trials = sorted(rows_of(TrialRow, tables["trials"]), key=lambda row: row.seed)
    by_arm, costs = _by_arm(trials), _by_arm(rows_of(CostRow, tables["costs"]))
    scored = _by_arm(_task_scores(tables["scores"]))
    figures = []
    study = plan.study
    for arm in plan.arms:
        rows = scored.get(arm.name, [])
        likelihood = [row for row in rows if TASK_KINDS[row.kind].decides and row.tokens_sum]
        tasks = dict.fromkeys(row.task for row in rows if TASK_KINDS[row.kind].judged)
        accuracies = {task: mean(row.correct_mean for row in rows if row.task == task) for task in tasks}
        figures.append(
            ArmFigures(
                arm=arm,
                trials=by_arm.get(arm.name, []),
                losses={row.seed: row.nll_nats_sum / row.tokens_sum for row in likelihood},
                costs=_costs(costs.get(arm.name, [])),
                accuracies={task: value for task, value in accuracies.items() if value is not None},
            )
        )
    order = {variant.name: i for i, variant in enumerate(study.variant)}
    axes: dict[str, int] = {axis: i for i, axis in enumerate(study.twins.axes)}

    def place(variant: str, axis: str = "") -> tuple[int, int]:
        return order.get(variant, len(order)), axes.get(axis, len(axes))

    present = {row.trial for row in trials}
    return Summary(
        arms=figures,
        verdicts=sorted(rows_of(Finding, tables["verdicts"]), key=lambda row: place(row.variant, row.name)),
        comparisons=sorted(rows_of(ComparisonRow, tables["comparisons"]), key=lambda row: place(row.variant, row.axis)),
        worth=sorted(rows_of(SharingWorthRow, tables["sharing_worth"]), key=lambda row: place(row.variant)),
        pairs=list(plan.comparisons),
        curves=loss_curves(tables["steps"]),
        tunings=rows_of(TuningRow, tables["tunings"]) if "tunings" in tables else [],
        distances=rows_of(DistanceRow, tables["distances"]) if "distances" in tables else [],
        missing=[trial.name for trial in plan.trials if trial.name not in present],
    )
