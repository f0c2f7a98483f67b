"""Five lines a manager reads: the answer, accuracy, inference cost, upkeep, and how far to roll out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sharelm.study import Study
from sharelm.study.thresholds import STAGES
from sharelm.tables.messages import Message, message
from sharelm.tables.rows import Finding, rows_of
from sharelm.words.say import listed, say

_FEW = 3  # variants whose figures a line has room for; of more it says how far they reach, and the report has the rest
_KEPT = ("loss_better", "loss_not_worse")
_MISSING = ("unscored", "one_document")


@dataclass(frozen=True)
class Line:
    """One line: a title, which the first has not, and what stands under it."""

    title: str | None
    parts: list[str]

    @property
    def text(self) -> str:
        """The line in one piece."""
        if self.title is None:
            return listed("sentences", self.parts)
        return say("line", "whole", {"title": self.title, "parts": self.parts})


def headline(study: Study, verdicts: pa.Table) -> list[Line]:
    """Five lines from the table that `sharelm.verdict.decide` gives for this study."""
    found = _Found(study, rows_of(Finding, verdicts))
    return [_answer(found), _accuracy(found), _kpi(found, "inference_cost"), _kpi(found, "upkeep"), _rollout(found)]


class _Found:
    """The findings by variant, kind and name."""

    def __init__(self, study: Study, findings: list[Finding]) -> None:
        self.study = study
        self.margin = study.kpi.accuracy.loss_margin_nats
        self.variants = [variant.name for variant in study.variant]
        self._rows = {(found.variant, found.kind, found.name): found for found in findings}

    def kpi(self, variant: str, name: str) -> Finding:
        return self._rows[variant, "kpi", name]

    def axis(self, variant: str, name: str) -> Finding:
        return self._rows[variant, "axis", name]

    def stages(self, variant: str) -> list[Finding]:
        return [self._rows[variant, "stage", stage] for stage in STAGES]

    def loss(self, variant: str) -> Finding:
        """The loss beside the twin of the same depth."""
        return self.axis(variant, "depth")

    def who(self, names: list[str], each: str = "named", whole: str = "all") -> Message:
        """These variants by name, or by their number where they are all of many."""
        if len(names) == len(self.variants) > _FEW:
            return message("who", whole, everyone=len(names))
        return message("who", each, names=names)


def _grouped(told: Iterable[tuple[str, Any]]) -> list[tuple[Any, list[str]]]:
    """Variants of which the same is told, together, in the study's order."""
    groups: list[tuple[Any, list[str]]] = []
    for name, what in told:
        for same, names in groups:
            if same == what:
                names.append(name)
                break
        else:
            groups.append((what, [name]))
    return groups


def _part(code: str, **figures: Any) -> str:
    return say("line", code, figures)


def _answer(found: _Found) -> Line:
    by_outcome: dict[str, list[str]] = {"met": [], "not_shown": [], "not_met": []}
    for name in found.variants:
        by_outcome[found.kpi(name, "accuracy").outcome].append(name)

    def told(outcome: str, code: str, each: str = "named", whole: str = "any") -> str:
        names = by_outcome[outcome]
        savings = _savings(found, names, found.who(names, each, whole))
        return say("answer", code, {"savings": savings, "count": len(names), "margin": found.margin})

    parts = []
    if by_outcome["met"]:
        once = min(found.loss(name).figures["seeds"] for name in found.variants) == 1
        parts.append(told("met", "kept_on_one_seed" if once else "kept", whole="all"))
    if unclear := by_outcome["not_shown"]:
        parts.append(told("not_shown", _why_unclear(found, unclear), each="any_named"))
    if by_outcome["not_met"]:
        parts.append(told("not_met", "lost"))
    return Line(None, parts)


def _why_unclear(found: _Found, names: list[str]) -> str:
    """The code of the sentence about variants whose accuracy is not shown."""
    codes = {found.kpi(name, "accuracy").code for name in names}
    if "trials_missing" in codes:
        return "unfinished"
    return "too_small" if all(found.loss(name).code not in _MISSING for name in names) else "too_little_scored"


def _savings(found: _Found, names: list[str], who: Message) -> list[Message]:
    saved = {name: found.loss(name).figures["saved"] for name in names}
    if len(names) <= _FEW:
        return [message("saving", "one", variant=name, saved=saved[name]) for name in names]
    return [_reach("saving", "many", min(saved.values()), max(saved.values()), variants=who)]


def _reach(kind: str, code: str, least: float, most: float, **figures: Any) -> Message:
    """From the least to the most, or one figure where they look the same."""
    figures |= {"least": least, "most": most}
    one, other = (say(kind, code, figures | {"most": end}) for end in (least, most))
    return message(kind, code if one == other else f"{code}_range", **figures)


def _accuracy(found: _Found) -> Line:
    seeds = [found.loss(name).figures["seeds"] for name in found.variants]
    code = "accuracy" if min(seeds) == max(seeds) else "accuracy_seeds_range"
    code = "accuracy_one_seed" if max(seeds) == 1 else code
    title = say("title", code, {"seeds": max(seeds), "fewest": min(seeds), "margin": found.margin})
    parts = _compared_together(found)
    for axis in found.study.twins.axes:
        if axis != "depth":
            groups = _grouped((name, found.axis(name, axis).outcome) for name in found.variants)
            told = [message("line", "group", variants=found.who(names), outcome=outcome) for outcome, names in groups]
            parts.append(_part("axis", axis=axis, groups=told))
    return Line(title, parts)


def _compared_together(found: _Found) -> list[str]:
    """What is said of each variant; of many whose loss alone decides alike, the least and the most it differs by."""
    parts, left = [], found.variants
    decided = {name: _loss_decides(found.kpi(name, "accuracy")) for name in left}
    for outcome in ("met", "not_met"):
        alike = [name for name in left if decided[name] == outcome]
        if len(alike) > _FEW:
            losses = sorted((found.loss(name).figures for name in alike), key=lambda loss: float(loss["difference"]))
            ends: dict[str, Any] = {}
            for end, loss in (("least", losses[0]), ("most", losses[-1])):
                ends |= {end: loss["difference"], f"{end}_of": loss["variant"]}
                ends |= {f"{end}_low": loss["low"], f"{end}_high": loss["high"]}
            parts.append(_part("loss_range", variants=found.who(alike), outcome=outcome, **ends))
            left = [name for name in left if name not in alike]
    return [*parts, *(_compared(found, name) for name in left)]


def _loss_decides(kpi: Finding) -> str | None:
    """The outcome of a variant of which nothing but its loss is said."""
    alone = kpi.code == "loss_worse" or (kpi.code in _KEPT and not kpi.figures["unshown_tasks"])
    return kpi.outcome if alone else None


def _compared(found: _Found, name: str) -> str:
    """How one variant's accuracy compares."""
    kpi, loss = found.kpi(name, "accuracy"), found.loss(name)
    if kpi.code == "task_worse":
        code = "task" if loss.code in _MISSING else "loss_and_task"
        task = {"task": kpi.figures["task"], "task_difference": kpi.value, "task_margin": kpi.threshold}
        return _part(code, outcome=kpi.outcome, **loss.figures, **task)
    code = _told_as(kpi)
    return _part(code, outcome=kpi.outcome, **{"variant": name} | dict(kpi.figures))


def _told_as(kpi: Finding) -> str:
    if kpi.code in _KEPT:
        return "loss_tasks_not_shown" if kpi.figures["unshown_tasks"] else "loss"
    code = kpi.message["code"]
    return {"loss_worse": "loss", "diverged_unexplained": "diverged"}.get(code, code)


def _kpi(found: _Found, name: str) -> Line:
    kpis = {variant: found.kpi(variant, name) for variant in found.variants}
    met = [variant for variant, kpi in kpis.items() if kpi.outcome == "met"]
    brief = met if len(kpis) > _FEW else []  # a line of every figure would not be read; they stand in the report
    parts = [_part("met_by", variants=found.who(brief))] if brief else []
    for ratio, alike in _grouped((variant, _ratio(kpi)) for variant, kpi in kpis.items() if variant not in brief):
        if len(alike) > _FEW and ratio:
            outcome, measure = ratio
            values = [value for variant in alike if (value := kpis[variant].value) is not None]
            limit = kpis[alike[0]].threshold
            told = {"variants": found.who(alike), "outcome": outcome, "measure": measure, "limit": limit}
            reach = _reach("line", "ratio_many", min(values), max(values), **told)
            parts.append(_part(reach["code"], **reach["figures"]))
        else:
            parts += [_kpi_of(kpis[variant]) for variant in alike]
    return Line(say("title", name, {}), parts)


def _kpi_of(kpi: Finding) -> str:
    return _part(_told_as(kpi), variant=kpi.variant, outcome=kpi.outcome, **kpi.figures)


def _ratio(kpi: Finding) -> tuple[str, str] | None:
    """The outcome and the measure where a ratio decided."""
    decided = kpi.code == "ratios" and kpi.measure and kpi.measure != "loss_spikes" and kpi.value is not None
    return (kpi.outcome, str(kpi.measure)) if decided else None


def _rollout(found: _Found) -> Line:
    parts = []
    for (code, figures), names in _grouped((name, _reached(found, name)) for name in found.variants):
        parts.append(_part(code, variants=found.who(names), count=len(names), **figures))
    return Line(say("title", "rollout", {}), parts)


def _reached(found: _Found, name: str) -> tuple[str, dict[str, Any]]:
    """How far this variant may go, and what the next stage asks for."""
    stages = found.stages(name)
    reached = sum(stage.outcome == "supported" for stage in stages)
    if reached == len(stages):
        return "ready_for_last", {"stage": STAGES[-1]}
    lacking = stages[reached].message
    asks = {"lack": say("asks", lacking["code"], lacking["figures"])}
    return ("ready_up_to", asks | {"reached": STAGES[reached - 1]}) if reached else ("not_ready", asks)
