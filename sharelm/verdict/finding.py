"""The evidence a verdict is drawn from, and how a comparison of losses is told: a code and its figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from sharelm.errors import InputError
from sharelm.metrics import DECIDING, METRICS
from sharelm.statistics.compare import ALL
from sharelm.statistics.intervals import MOST_SEEDS, interval, settling_seeds
from sharelm.study import Arm, Plan, Study
from sharelm.tables.messages import Message, message
from sharelm.tables.rows import ComparisonRow, CostRow, TrialRow, rows_of

MET, NOT_MET, NOT_SHOWN = "met", "not_met", "not_shown"
KEPT = ("better", "not_worse")  # outcomes of a comparison that count as no loss


@dataclass(frozen=True)
class Evidence:
    """A plan and the rows measured for it."""

    plan: Plan
    comparisons: list[ComparisonRow]
    trials: list[TrialRow]
    costs: list[CostRow]

    @classmethod
    def of(cls, plan: Plan, comparisons: pa.Table, trials: pa.Table, costs: pa.Table) -> Evidence:
        """The evidence in these tables."""
        return cls(plan, rows_of(ComparisonRow, comparisons), rows_of(TrialRow, trials), rows_of(CostRow, costs))

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

    def loss(self, variant: str, axis: str) -> ComparisonRow:
        """The comparison of validation loss over all domains."""
        for row in self.comparisons:
            if METRICS[row.metric].decides and (row.variant, row.axis, row.domain) == (variant, axis, ALL):
                return row
        raise InputError(f"comparisons: there is no {DECIDING.name} of {variant} on the {axis} axis")

    def told(self, row: ComparisonRow) -> tuple[str, dict[str, Any]]:
        """The code of a comparison of losses, and its figures."""
        figures = interval_figures(row)
        if row.seeds == 0:
            return "unscored", figures
        if row.interval_low is None:
            return "one_document", figures
        if row.outcome != NOT_SHOWN:
            return f"loss_{row.outcome}", figures
        if row.seeds == 1:
            return "loss_wants_second_seed", figures
        wanted = self._settling_seeds(row)
        if wanted is None:
            return "loss_beyond_seeds", figures | {"most_seeds": MOST_SEEDS}
        return "loss_wants_seeds", figures | {"wanted_seeds": wanted}

    def _settling_seeds(self, row: ComparisonRow) -> int | None:
        """With how many seeds this comparison's interval would leave the margin; None where none is in reach."""
        assert row.margin is not None  # the loss has one, and an interval over two seeds or more has all of these
        assert row.difference is not None
        assert row.standard_error_documents is not None
        assert row.degrees_of_freedom_documents is not None
        assert row.standard_error_seeds is not None
        return settling_seeds(
            row.margin - row.difference,
            row.standard_error_documents,
            row.degrees_of_freedom_documents,
            row.standard_error_seeds,
            row.seeds,
            len(self.arms),
            row.confidence,
        )

    def notes(self, row: ComparisonRow) -> list[Message]:
        """What else is to be said of a comparison of losses: equivalence, and what its interval rests on."""
        found = []
        level = (1 - self.study.kpi.accuracy.confidence) / 2
        if row.p_equivalent is not None and row.p_equivalent < level:
            found.append(message("note", "equivalent", margin=row.margin))
        if row.outcome != NOT_SHOWN and row.standard_error_seeds_alone is not None and not _shown_alone(row):
            found.append(message("note", "rests_on_pooling", seeds=row.seeds))
        if row.seeds == 1:
            found.append(message("note", "seeds_not_varied"))
        return found

    def tasks(self, variant: str) -> list[ComparisonRow]:
        """The comparisons with the same-depth twin that are held to a margin beside the loss."""
        return [
            row
            for row in self.comparisons
            if METRICS[row.metric].margin is not None and not METRICS[row.metric].decides
            if (row.variant, row.axis, row.domain) == (variant, "depth", ALL)
        ]

    def trials_of(self, arm: str, status: str) -> list[TrialRow]:
        """The arm's trials with this status, by seed."""
        found = [row for row in self.trials if row.arm == arm and row.status == status]
        return sorted(found, key=lambda row: row.seed)

    def storage_saved(self, variant: str) -> float:
        """Share of the same-depth twin's stored parameters that the variant does without."""
        stored = {name: self.arms[name].footprint.stored_parameters for name in (variant, self.twin(variant))}
        return 1 - stored[variant] / stored[self.twin(variant)]


def _shown_alone(row: ComparisonRow) -> bool:
    """Whether the seeds of the pair alone show the same, at the same confidence, without the other arms' spread.

    Pooling assumes that all arms spread alike over seeds; this interval does not.
    """
    assert row.difference is not None  # there are several seeds and documents
    assert row.standard_error_documents is not None
    assert row.degrees_of_freedom_documents is not None
    assert row.margin is not None
    low, high = interval(
        row.difference,
        row.standard_error_documents,
        row.degrees_of_freedom_documents,
        row.standard_error_seeds_alone,
        row.seeds - 1,
        row.confidence,
    )
    return {"better": high < 0, "not_worse": high < row.margin, "worse": low > row.margin}[row.outcome or ""]


def interval_figures(row: ComparisonRow) -> dict[str, Any]:
    """The figures of a comparison; those of its interval are None where it has none."""
    return {
        "variant": row.variant,
        "twin": row.twin,
        "difference": row.difference,
        "low": row.interval_low,
        "high": row.interval_high,
        "confidence": row.confidence,
        "margin": row.margin,
        "seeds": row.seeds,
        "documents": row.documents,
    }
