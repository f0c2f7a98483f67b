"""The three KPIs of a variant against the study's thresholds; what was not measured is not shown, never met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sharelm.verdict.finding import (
    DIVERGED,
    MET,
    NOT_MET,
    NOT_SHOWN,
    Evidence,
    Finding,
    interval_text,
    listed,
    loss_text,
    missing_text,
    number_text,
    percent_text,
)


def kpi_findings(evidence: Evidence, variant: str) -> list[Finding]:
    """One finding for each KPI; its measure is the one that decides it, its reason names all."""
    return [_accuracy(evidence, variant), _inference_cost(evidence, variant), _upkeep(evidence, variant)]


def _diverged(evidence: Evidence, variant: str, kpi: str) -> Finding | None:
    """Not met, where a trial of the variant diverged: a model that cannot be retrained is neither accurate nor kept."""
    diverged = evidence.trials_of(variant, "diverged")
    if not diverged:
        return None
    seeds = listed(str(row["seed"]) for row in diverged)
    error = " ".join(str(diverged[0]["error"] or "no reason recorded").split())
    reason = f"Training diverged with seed {seeds}: {error}."
    return Finding(variant, "kpi", kpi, NOT_MET, DIVERGED, len(diverged), 0.0, reason)


def _accuracy(evidence: Evidence, variant: str) -> Finding:
    diverged = _diverged(evidence, variant, "accuracy")
    if diverged:
        return diverged
    loss, tasks = evidence.loss(variant, "depth"), evidence.tasks(variant)
    measure, decides, missing = "difference of loss, nats per token", loss, missing_text(loss)
    worse = [row for row in tasks if row["outcome"] == "worse"]
    unshown = [row["task"] for row in tasks if row["outcome"] == "not_shown"]
    if loss["outcome"] == "worse":
        outcome, reason = NOT_MET, f"Worse beyond the margin: {loss_text(loss)}."
    elif worse:
        outcome, decides, measure = NOT_MET, worse[0], f"difference of accuracy, task {worse[0]['task']}"
        reason = f"Task {worse[0]['task']} is worse beyond the margin: {interval_text(worse[0], share=True)}."
    elif loss["outcome"] == "not_shown":
        outcome = NOT_SHOWN
        reason = f"{missing[0].upper()}{missing[1:]}." if missing else f"Too wide to tell: {loss_text(loss)}."
    else:
        outcome = MET
        reason = f"{'Better' if loss['outcome'] == 'better' else 'Not worse'}: {loss_text(loss)}."
        if unshown:
            reason += f" Not shown for task {', '.join(unshown)}."
    if loss["seeds"] == 1:
        reason += " Seeds were not varied."
    return Finding(variant, "kpi", "accuracy", outcome, measure, decides["difference"], decides["margin"], reason)


SAME = 0.001  # ratios that differ by less are one figure
OF_FULL = " of the full model's"  # the twin of the same depth: said once in a reason


@dataclass(frozen=True)
class _Measure:
    """One figure with the most it may be; `where` says which workload; `value` is None where nothing was measured.

    `repeats` is the least and the most of its repeats, one a seed, where they differ.
    """

    name: str
    value: float | None
    most: float
    where: str = ""
    missing: str = ""
    repeats: tuple[float, float] | None = None

    @property
    def outcome(self) -> str:
        """Met or not met where every repeat says so."""
        if self.value is None:
            return NOT_SHOWN
        low, high = self.repeats or (self.value, self.value)
        return MET if high <= self.most else NOT_MET if low > self.most else NOT_SHOWN

    @property
    def text(self) -> str:
        """`memory 61.5 % of the full model's for chat (at most 80 %)`, or why there is no figure."""
        name, most = self.name.removesuffix(" ratio"), number_text(self.most)
        if self.value is None:
            return f"{name}{self.where} was not measured ({self.missing})"
        if name == self.name:
            return f"{number_text(self.value)} {name}{self.where} (at most {most})"
        value, most = percent_text(self.value, self.most), number_text(100 * self.most)
        repeats = ""
        if self.repeats:
            low, high = (f"{100 * end:.3g}" for end in self.repeats)
            repeats = f"{low} to {high} % in its repeats, "
        return f"{name} {value}{OF_FULL}{self.where} ({repeats}at most {most} %)"


_BySeed = Mapping[int, Any]


def _ratio(name: str, variant: _BySeed, twin: _BySeed, most: float, where: str = "") -> _Measure:
    """The ratio of the means over the seeds of both, or no value where a figure is absent or the twin's is zero."""
    seeds = [seed for seed in variant if seed in twin]
    ours, twins = [variant[seed] for seed in seeds], [twin[seed] for seed in seeds]
    if not seeds:
        return _Measure(name, None, most, where, "no rows of both arms under the same conditions")
    if None in [*ours, *twins]:
        return _Measure(name, None, most, where, "a figure is null")
    if 0 in twins:
        return _Measure(name, None, most, where, "the twin's figure is 0")
    ratios = [one / other for one, other in zip(ours, twins, strict=True)]
    repeats = (min(ratios), max(ratios)) if max(ratios) - min(ratios) > SAME else None
    return _Measure(name, fmean(ours) / fmean(twins), most, where, repeats=repeats)


def _worst(measures: list[_Measure]) -> _Measure:
    """The measure that decides: one that is not met, else one that is not shown, else the nearest to its limit."""
    for outcome in (NOT_MET, NOT_SHOWN, MET):
        found = [measure for measure in measures if measure.outcome == outcome]
        if outcome == NOT_SHOWN and any(measure.value is None for measure in found):
            found = [measure for measure in found if measure.value is None]
        if found:
            break
    return max(found, key=lambda m: (m.value or 0) / m.most if m.most else m.value or 0)


def _finding(variant: str, kpi: str, measures: list[_Measure]) -> Finding:
    """The KPI is met when every measure is within its limit; the worst one decides, and the reason is what decides."""
    worst = _worst(measures)
    outcome = worst.outcome
    deciding = [measure for measure in measures if measure.outcome == outcome]
    first, of_full, rest = listed(measure.text for measure in deciding).partition(OF_FULL)
    reason = f"{first[0].upper()}{first[1:]}{of_full}{rest.replace(OF_FULL, '')}."
    return Finding(variant, "kpi", kpi, outcome, worst.name, worst.value, worst.most, reason)


def _inference_cost(evidence: Evidence, variant: str) -> Finding:
    limits = evidence.study.kpi.inference_cost
    asked = {
        "memory ratio": ("peak_bytes", limits.memory_ratio_max),
        "cost per token ratio": ("cost_per_1m_tokens", limits.cost_per_token_ratio_max),
    }
    measures = []
    for name, (column, most) in asked.items():
        served = [
            ratio
            for workload in evidence.study.cost.workload
            for ratio in _served_ratios(evidence, variant, workload.name, name, column, most)
        ]
        measures.append(_worst(served))
    return _finding(variant, "inference_cost", measures)


def _served_ratios(
    evidence: Evidence, variant: str, workload: str, name: str, column: str, most: float
) -> list[_Measure]:
    """The ratio on every device and precision where both arms served the workload; one without a value if none."""

    def figures(arm: str) -> dict[tuple[str, str], dict[int, Any]]:
        found: dict[tuple[str, str], dict[int, Any]] = {}
        for row in evidence.costs:
            if row["arm"] == arm and row["workload"] == workload:
                found.setdefault((row["device"], row["precision"]), {})[row["seed"]] = row[column]
        return found

    ours, twins = figures(variant), figures(evidence.twin(variant))
    where = f" for {workload}" if len(evidence.study.cost.workload) > 1 else ""
    return [_ratio(name, ours[key], twins[key], most, where) for key in ours if key in twins] or [
        _ratio(name, {}, {}, most, where)
    ]


def _upkeep(evidence: Evidence, variant: str) -> Finding:
    diverged = _diverged(evidence, variant, "upkeep")
    if diverged:
        return diverged
    limits = evidence.study.kpi.upkeep
    ours, twins = (
        {(row["seed"], row["device"], row["precision"], row["workers"]): row for row in evidence.trials_of(arm, "done")}
        for arm in (variant, evidence.twin(variant))
    )
    shared = [key for key in ours if key in twins]

    def ratio(name: str, column: str, most: float) -> _Measure:
        of_ours, of_twins = ({key[0]: rows[key][column] for key in shared} for rows in (ours, twins))
        return _ratio(name, of_ours, of_twins, most)

    measures = [
        ratio("training cost ratio", "training_cost", limits.training_cost_ratio_max),
        ratio("stored bytes ratio", "weights_bytes", limits.stored_bytes_ratio_max),
    ]
    spikes = [row["loss_spikes"] for row in evidence.trials_of(variant, "done")]
    if spikes and None not in spikes:
        measures.append(_Measure("loss spikes", max(spikes), limits.loss_spikes_max))
    else:
        measures.append(_Measure("loss spikes", None, limits.loss_spikes_max, missing="no finished trial reports them"))
    return _finding(variant, "upkeep", measures)
