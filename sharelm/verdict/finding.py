"""One row of a verdict, and the evidence it is drawn from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from sharelm.errors import InputError
from sharelm.metrics import DECIDING, METRICS
from sharelm.statistics.compare import ALL
from sharelm.statistics.intervals import MOST_SEEDS, settling_seeds
from sharelm.study import Arm, Plan, Study

MET, NOT_MET, NOT_SHOWN = "met", "not_met", "not_shown"
DIVERGED = "diverged trials"  # the measure of a KPI that divergence decides
KEPT = ("better", "not_worse")  # outcomes of a comparison that count as no loss


@dataclass(frozen=True)
class Finding:
    """A row of the `verdicts` table."""

    variant: str
    kind: str
    name: str
    outcome: str
    measure: str | None
    value: float | None
    threshold: float | None
    reason: str


@dataclass(frozen=True)
class Evidence:
    """A plan and the rows measured for it."""

    plan: Plan
    comparisons: list[dict[str, Any]]
    trials: list[dict[str, Any]]
    costs: list[dict[str, Any]]

    @classmethod
    def of(cls, plan: Plan, comparisons: pa.Table, trials: pa.Table, costs: pa.Table) -> Evidence:
        """The evidence in these tables."""
        return cls(plan, comparisons.to_pylist(), trials.to_pylist(), costs.to_pylist())

    @property
    def study(self) -> Study:
        """The study of the plan."""
        return self.plan.study

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """The study's arms by name."""
        return {arm.name: arm for arm in self.plan.arms}

    @cached_property
    def _twins(self) -> dict[tuple[str, str], str]:
        return {(pair.variant, pair.axis): pair.twin for pair in self.plan.comparisons}

    def twin(self, variant: str, axis: str = "depth") -> str:
        """The name of the variant's twin on this axis."""
        return self._twins[variant, axis]

    def loss(self, variant: str, axis: str) -> dict[str, Any]:
        """The comparison of validation loss over all domains."""
        for row in self.comparisons:
            if METRICS[row["metric"]].decides and (row["variant"], row["axis"], row["domain"]) == (variant, axis, ALL):
                return row
        raise InputError(f"comparisons: there is no {DECIDING.name} of {variant} on the {axis} axis")

    def settling_seeds(self, row: dict[str, Any]) -> int | None:
        """With how many seeds this comparison's interval would leave the margin; None where none is in reach.

        The row has errors of both seeds and documents.
        """
        return settling_seeds(
            row["margin"] - row["difference"],
            row["standard_error_documents"],
            row["documents"],
            row["standard_error_seeds"],
            row["seeds"],
            len(self.arms),
            row["confidence"],
        )

    def outlook(self, row: dict[str, Any]) -> str:
        """What would settle a comparison whose interval straddles its margin."""
        if row["seeds"] == 1:
            return "a second seed at the least is needed to tell"
        seeds = self.settling_seeds(row)
        if seeds is None:
            return f"and even {MOST_SEEDS} seeds would not tell if these figures hold"
        return f"about {seeds} seeds would tell if these figures hold"

    def tasks(self, variant: str) -> list[dict[str, Any]]:
        """The comparisons with the same-depth twin that are held to a margin beside the loss."""
        return [
            row
            for row in self.comparisons
            if METRICS[row["metric"]].margin is not None and not METRICS[row["metric"]].decides
            if (row["variant"], row["axis"], row["domain"]) == (variant, "depth", ALL)
        ]

    def trials_of(self, arm: str, status: str) -> list[dict[str, Any]]:
        """The arm's trials with this status, by seed."""
        found = [row for row in self.trials if row["arm"] == arm and row["status"] == status]
        return sorted(found, key=lambda row: int(row["seed"]))

    def storage_saved(self, variant: str) -> float:
        """Share of the same-depth twin's stored parameters that the variant does without."""
        stored = {name: self.arms[name].footprint.stored_parameters for name in (variant, self.twin(variant))}
        return 1 - stored[variant] / stored[self.twin(variant)]


def listed(words: Iterable[str], joint: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} {joint} {last}" if first else last


def number_text(value: float) -> str:
    """`0.6702`, `3`, `204,800`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent_text(ratio: float, most: float) -> str:
    """`88.5 %`: three digits, or as many as it takes not to hide that a ratio is beyond the most it may be."""
    digits = next(n for n in range(3, 18) if (float(f"{ratio:.{n}g}") > most) == (ratio > most))
    return f"{float(f'{100 * ratio:.{digits}g}'):,.12g} %"


def interval_text(row: dict[str, Any], share: bool = False) -> str:
    """`+0.020 nats (98.75 % interval +0.003 to +0.036)` of a comparison that has an interval."""
    unit = "" if share else " nats"
    return (
        f"{row['difference']:+.3f}{unit} ({100 * row['confidence']:.4g} % interval "
        f"{row['interval_low']:+.3f} to {row['interval_high']:+.3f})"
    )


def loss_text(row: dict[str, Any]) -> str:
    """`against x the loss differs by +0.020 nats (...), the margin is 0.05` of a comparison that has an interval."""
    return f"against {row['twin']} the loss differs by {interval_text(row)}, the margin is {row['margin']:g}"


def missing_text(row: dict[str, Any]) -> str | None:
    """Why a comparison has no interval, or None where it has one."""
    if row["seeds"] == 0:
        return f"no seed of both {row['variant']} and {row['twin']} was scored"
    if row["interval_low"] is None:
        return f"an interval needs two documents, and there is {row['documents']}"
    return None
