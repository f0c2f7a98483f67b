"""One row of a verdict, and the evidence it is drawn from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from sharelm.errors import InputError
from sharelm.statistics.compare import ALL
from sharelm.statistics.panel import ACCURACY, LOSS
from sharelm.study import Arm, Study, arms, comparisons

MET, NOT_MET, NOT_SHOWN = "met", "not_met", "not_shown"
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
    """A study and the rows measured for it."""

    study: Study
    comparisons: list[dict[str, Any]]
    trials: list[dict[str, Any]]
    costs: list[dict[str, Any]]

    @classmethod
    def of(cls, study: Study, comparisons: pa.Table, trials: pa.Table, costs: pa.Table) -> Evidence:
        """The evidence in these tables."""
        return cls(study, comparisons.to_pylist(), trials.to_pylist(), costs.to_pylist())

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """The study's arms by name."""
        return {arm.name: arm for arm in arms(self.study)}

    @cached_property
    def _twins(self) -> dict[tuple[str, str], str]:
        return {(pair.variant, pair.axis): pair.twin for pair in comparisons(self.study)}

    def twin(self, variant: str, axis: str = "depth") -> str:
        """The name of the variant's twin on this axis."""
        return self._twins[variant, axis]

    def loss(self, variant: str, axis: str) -> dict[str, Any]:
        """The comparison of validation loss over all domains."""
        for row in self.comparisons:
            if (row["variant"], row["axis"], row["metric"], row["domain"]) == (variant, axis, LOSS, ALL):
                return row
        raise InputError(f"comparisons: there is no {LOSS} of {variant} on the {axis} axis")

    def tasks(self, variant: str) -> list[dict[str, Any]]:
        """The comparisons of accuracy with the same-depth twin."""
        return [
            row
            for row in self.comparisons
            if (row["variant"], row["axis"], row["metric"], row["domain"]) == (variant, "depth", ACCURACY, ALL)
        ]

    def trials_of(self, arm: str, status: str) -> list[dict[str, Any]]:
        """The arm's trials with this status, by seed."""
        found = [row for row in self.trials if row["arm"] == arm and row["status"] == status]
        return sorted(found, key=lambda row: int(row["seed"]))

    def storage_saved(self, variant: str) -> float:
        """Share of the same-depth twin's stored parameters that the variant does without."""
        stored = {name: self.arms[name].footprint.stored_parameters for name in (variant, self.twin(variant))}
        return 1 - stored[variant] / stored[self.twin(variant)]


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def number_text(value: float) -> str:
    """`0.6702`, `3`, `204,800`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def interval_text(row: dict[str, Any], share: bool = False) -> str:
    """`+0.020 nats (98.75 % interval +0.003 to +0.036)` of a comparison that has an interval."""
    unit = "" if share else " nats"
    return (
        f"{row['difference']:+.3f}{unit} ({100 * row['confidence']:.4g} % interval "
        f"{row['interval_low']:+.3f} to {row['interval_high']:+.3f})"
    )


def missing_text(row: dict[str, Any]) -> str | None:
    """Why a comparison has no interval, or None where it has one."""
    if row["seeds"] == 0:
        return f"no seed of both {row['variant']} and {row['twin']} was scored"
    if row["interval_low"] is None:
        return f"an interval needs two documents, and there is {row['documents']}"
    return None
