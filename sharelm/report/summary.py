"""Tables to figures per arm: what the page, the Markdown and the JSON all show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sharelm.study import Arm, Plan
from sharelm.tasks import TASK_KINDS

Row = dict[str, Any]
_MEANS = (
    "prefill_ms_p50",
    "prefill_ms_p95",
    "decode_ms_p50",
    "decode_ms_p95",
    "generated_tokens_per_second",
    "load_seconds",
    "disk_bytes",
    "weights_bytes",
    "kv_bytes",
    "rest_bytes",
    "peak_bytes",
    "cost_per_1m_tokens",
)
_BINS = 90


@dataclass(frozen=True)
class ArmFigures:
    """One arm: what it is in closed form, and what was measured; None or empty where nothing was."""

    arm: Arm
    trials: list[Row]  # of the trials table, by seed
    losses: dict[int, float]  # held-out nats per token, by seed
    costs: list[Row]  # one a workload and device: means over seeds
    accuracies: dict[str, float]  # by task, mean over seeds

    @property
    def loss(self) -> float | None:
        """Held-out nats per token, mean over seeds."""
        return mean(self.losses.values())

    @property
    def stored_bytes(self) -> float | None:
        """Bytes of the weights file."""
        return mean(row["weights_bytes"] for row in self.trials)

    @property
    def epochs(self) -> float | None:
        """How often its training saw the corpora; above 1 data repeats."""
        return mean(row["epochs"] for row in self.trials if row["status"] == "done")

    @property
    def training_cost(self) -> float | None:
        """Money one training run cost, mean over seeds."""
        return mean(row["training_cost"] for row in self.trials if row["status"] == "done")


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
    verdicts: list[Row]
    comparisons: list[Row]
    worth: list[Row]  # of the sharing_worth table
    pairs: list[Row]  # each variant with its twin on an axis, and how well they are matched
    curves: dict[str, LossCurve]
    tunings: list[Row]  # of the tunings table
    distances: list[Row]  # how far apart softly tied depths ended up
    missing: list[str]  # trials of the study that have no row


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the finite values; None without any."""
    finite = [v for v in values if v is not None and math.isfinite(v)]
    return sum(finite) / len(finite) if finite else None


def _by_arm(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["arm"], []).append(row)
    return found


def _sums(scores: pa.Table) -> list[Row]:
    keys = ["arm", "seed", "kind", "task"]
    grouped = scores.group_by(keys).aggregate([("nll_nats", "sum"), ("tokens", "sum"), ("correct", "mean")])
    return sorted(grouped.to_pylist(), key=lambda row: (row["seed"], row["task"]))


def _costs(rows: list[Row]) -> list[Row]:
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    same = ("workload", "device", "precision", "batch", "prompt_tokens", "new_tokens", "currency")
    for row in rows:
        grouped.setdefault(tuple(row[key] for key in same), []).append(row)
    return [
        dict(zip(same, key, strict=True))
        | {name: mean(row[name] for row in group) for name in _MEANS}
        | {"seeds": len({row["seed"] for row in group})}
        for key, group in grouped.items()
    ]


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
    trial_rows = sorted(tables["trials"].to_pylist(), key=lambda row: row["seed"])
    by_arm, costs = _by_arm(trial_rows), _by_arm(tables["costs"].to_pylist())
    scored = _by_arm(_sums(tables["scores"]))
    figures = []
    study = plan.study
    for arm in plan.arms:
        rows = scored.get(arm.name, [])
        likelihood = [row for row in rows if TASK_KINDS[row["kind"]].decides and row["tokens_sum"]]
        tasks = dict.fromkeys(row["task"] for row in rows if TASK_KINDS[row["kind"]].judged)
        accuracies = {task: mean(row["correct_mean"] for row in rows if row["task"] == task) for task in tasks}
        figures.append(
            ArmFigures(
                arm=arm,
                trials=by_arm.get(arm.name, []),
                losses={row["seed"]: row["nll_nats_sum"] / row["tokens_sum"] for row in likelihood},
                costs=_costs(costs.get(arm.name, [])),
                accuracies={task: value for task, value in accuracies.items() if value is not None},
            )
        )
    order = {variant.name: i for i, variant in enumerate(study.variant)}
    axes: dict[str, int] = {axis: i for i, axis in enumerate(study.twins.axes)}

    def place(row: Row) -> tuple[int, int]:
        return order.get(row["variant"], len(order)), axes.get(str(row.get("axis", row.get("name"))), len(axes))

    pairs = [
        {"variant": p.variant, "twin": p.twin, "axis": p.axis, "target": p.target, "reached": p.reached}
        | {"relative_error": p.relative_error}
        for p in plan.comparisons
    ]
    present = {row["trial"] for row in trial_rows}
    return Summary(
        arms=figures,
        verdicts=sorted(tables["verdicts"].to_pylist(), key=place),
        comparisons=sorted(tables["comparisons"].to_pylist(), key=place),
        worth=sorted(tables["sharing_worth"].to_pylist(), key=place),
        pairs=pairs,
        curves=loss_curves(tables["steps"]),
        tunings=tables["tunings"].to_pylist() if "tunings" in tables else [],
        distances=tables["distances"].to_pylist() if "distances" in tables else [],
        missing=[trial.name for trial in plan.trials if trial.name not in present],
    )
