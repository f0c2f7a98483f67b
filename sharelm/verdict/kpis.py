"""The three KPIs of a variant against the study's thresholds; what was not measured is not shown, never met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sharelm.tables.messages import Message, as_json, message
from sharelm.tables.rows import CostRow, Finding, TrialRow
from sharelm.verdict.finding import MET, NOT_MET, NOT_SHOWN, Evidence, interval_figures


def kpi_findings(evidence: Evidence, variant: str) -> list[Finding]:
    """One finding for each KPI; its measure is the one that decides it, its figures are of all that decide alike."""
    return [_accuracy(evidence, variant), _inference_cost(evidence, variant), _upkeep(evidence, variant)]


def _diverged(evidence: Evidence, variant: str, kpi: str) -> Finding | None:
    """Not met, where a trial of the variant diverged: a model that cannot be retrained is neither accurate nor kept."""
    diverged = evidence.trials_of(variant, "diverged")
    if not diverged:
        return None
    error = " ".join((diverged[0].error or "").split())
    code = "diverged" if error else "diverged_unexplained"
    figures = {
        "seeds": [row.seed for row in diverged],
        "error": error,
        "diverged": len(diverged),
        "of_seeds": len(evidence.study.study.seeds),
    }
    return Finding(variant, "kpi", kpi, NOT_MET, code, "diverged_trials", len(diverged), 0.0, as_json(figures))


def _unfinished(evidence: Evidence, variant: str, kpi: str) -> Finding | None:
    """Not shown, where a trial of the variant or of its twin has no row: the seeds were fixed before training."""
    arms = (variant, evidence.twin(variant))
    there = {row.trial for row in evidence.trials}
    trials = [trial.name for trial in evidence.plan.trials if trial.arm.name in arms and trial.name not in there]
    if not trials:
        return None
    figures = as_json({"trials": trials, "count": len(trials)})
    return Finding(variant, "kpi", kpi, NOT_SHOWN, "trials_missing", "missing_trials", len(trials), 0.0, figures)


def _accuracy(evidence: Evidence, variant: str) -> Finding:
    ended = _diverged(evidence, variant, "accuracy") or _unfinished(evidence, variant, "accuracy")
    if ended:
        return ended
    loss, tasks = evidence.loss(variant, "depth"), evidence.tasks(variant)
    worse = [row for row in tasks if row.outcome == "worse"]
    (code, figures), measure, decides, notes = evidence.told(loss), "loss_difference_nats", loss, []
    if loss.outcome == "worse":
        outcome = NOT_MET
    elif worse:
        outcome, code, measure, decides = NOT_MET, "task_worse", "accuracy_difference", worse[0]
        figures = interval_figures(decides) | {"task": decides.task}
    elif loss.outcome == "not_shown":
        outcome = NOT_SHOWN
    else:
        outcome = MET
        figures["unshown_tasks"] = [row.task for row in tasks if row.outcome == "not_shown"]
        if figures["unshown_tasks"]:
            notes.append(message("note", "tasks_not_shown", tasks=figures["unshown_tasks"]))
    notes += evidence.notes(loss)
    told = as_json(figures | {"notes": notes})
    return Finding(variant, "kpi", "accuracy", outcome, code, measure, decides.difference, decides.margin, told)


SAME = 0.001  # ratios that differ by less are one figure


@dataclass(frozen=True)
class _Measure:
    """One figure with the most it may be; `workload` is set where there are several.

    `value` is None where nothing was measured, for the reason whose code is `missing`. `repeats` is the least and the
    most of its repeats, one a seed, where they differ.
    """

    name: str
    value: float | None
    most: float
    workload: str | None = None
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
    def message(self) -> Message:
        """Its code and figures."""
        code = SPIKES if self.name == SPIKES else "ratio"
        figures: dict[str, Any] = {"measure": self.name, "value": self.value, "most": self.most}
        if self.value is None:
            code = f"{code}_unmeasured"
            figures["why"] = message("why", self.missing)
        if self.workload is not None:
            code = f"{code}_of_workload"
            figures["workload"] = self.workload
        if self.repeats:
            code = f"{code}_with_repeats"
            figures["low"], figures["high"] = self.repeats
        return message("measure", code, **figures)


SPIKES = "loss_spikes"
_BySeed = Mapping[int, float | None]


def _ratio(name: str, variant: _BySeed, twin: _BySeed, most: float, workload: str | None = None) -> _Measure:
    """The ratio of the means over the seeds of both, or no value where a figure is absent or the twin's is zero."""
    seeds = [seed for seed in variant if seed in twin]
    ours, twins = ([figure for seed in seeds if (figure := arm[seed]) is not None] for arm in (variant, twin))
    if not seeds:
        return _Measure(name, None, most, workload, "no_common_rows")
    if min(len(ours), len(twins)) < len(seeds):
        return _Measure(name, None, most, workload, "figure_null")
    if 0 in twins:
        return _Measure(name, None, most, workload, "twin_zero")
    ratios = [one / other for one, other in zip(ours, twins, strict=True)]
    repeats = (min(ratios), max(ratios)) if max(ratios) - min(ratios) > SAME else None
    return _Measure(name, fmean(ours) / fmean(twins), most, workload, repeats=repeats)


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
    """The KPI is met when every measure is within its limit; the worst one decides, all that decide alike are told."""
    worst = _worst(measures)
    told = as_json({"measures": [measure.message for measure in measures if measure.outcome == worst.outcome]})
    return Finding(variant, "kpi", kpi, worst.outcome, "ratios", worst.name, worst.value, worst.most, told)


def _inference_cost(evidence: Evidence, variant: str) -> Finding:
    limits = evidence.study.kpi.inference_cost
    asked: list[tuple[str, Callable[[CostRow], float | None], float]] = [
        ("memory_ratio", lambda row: row.peak_bytes, limits.memory_ratio_max),
        ("cost_per_token_ratio", lambda row: row.cost_per_1m_tokens, limits.cost_per_token_ratio_max),
    ]
    measures = []
    for name, figure, most in asked:
        served = [
            ratio
            for workload in evidence.study.cost.workload
            for ratio in _served_ratios(evidence, variant, workload.name, name, figure, most)
        ]
        measures.append(_worst(served))
    return _finding(variant, "inference_cost", measures)


def _served_ratios(
    evidence: Evidence,
    variant: str,
    workload: str,
    name: str,
    figure: Callable[[CostRow], float | None],
    most: float,
) -> list[_Measure]:
    """The ratio on every device and precision where both arms served the workload; one without a value if none."""

    def figures(arm: str) -> dict[tuple[str, str], dict[int, float | None]]:
        found: dict[tuple[str, str], dict[int, float | None]] = {}
        for row in evidence.costs:
            if row.arm == arm and row.workload == workload:
                found.setdefault((row.device, row.precision), {})[row.seed] = figure(row)
        return found

    ours, twins = figures(variant), figures(evidence.twin(variant))
    where = workload if len(evidence.study.cost.workload) > 1 else None
    return [_ratio(name, ours[key], twins[key], most, where) for key in ours if key in twins] or [
        _ratio(name, {}, {}, most, where)
    ]


def _upkeep(evidence: Evidence, variant: str) -> Finding:
    ended = _diverged(evidence, variant, "upkeep") or _unfinished(evidence, variant, "upkeep")
    if ended:
        return ended
    limits = evidence.study.kpi.upkeep
    ours, twins = (
        {(row.seed, row.device, row.precision, row.workers): row for row in evidence.trials_of(arm, "done")}
        for arm in (variant, evidence.twin(variant))
    )
    shared = [key for key in ours if key in twins]

    def ratio(name: str, figure: Callable[[TrialRow], float | None], most: float) -> _Measure:
        of_ours, of_twins = ({key[0]: figure(rows[key]) for key in shared} for rows in (ours, twins))
        return _ratio(name, of_ours, of_twins, most)

    measures = [
        ratio("training_cost_ratio", lambda row: row.training_cost, limits.training_cost_ratio_max),
        ratio("stored_bytes_ratio", lambda row: row.weights_bytes, limits.stored_bytes_ratio_max),
    ]
    done = evidence.trials_of(variant, "done")
    spikes = [row.loss_spikes for row in done if row.loss_spikes is not None]
    if spikes and len(spikes) == len(done):
        measures.append(_Measure(SPIKES, max(spikes), limits.loss_spikes_max))
    else:
        measures.append(_Measure(SPIKES, None, limits.loss_spikes_max, missing="no_trial_reports"))
    return _finding(variant, "upkeep", measures)
