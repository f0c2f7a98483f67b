"""Five lines a manager reads: the answer, accuracy, inference cost, upkeep, and how far to roll out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from sharelm.study import Plan
from sharelm.study.tree import STAGES
from sharelm.verdict.finding import (
    DIVERGED,
    KEPT,
    MET,
    NOT_MET,
    NOT_SHOWN,
    Evidence,
    listed,
    missing_text,
    number_text,
    percent_text,
)
from sharelm.verdict.kpis import OF_FULL
from sharelm.verdict.stages import SUPPORTED

_FEW = 3  # variants whose figures a line has room for; of more it says how far they reach, and the report has the rest
_Rows = dict[tuple[str, str, str], dict[str, Any]]


def headline(plan: Plan, verdicts: pa.Table, comparisons: pa.Table) -> list[str]:
    """Five lines from the tables that `decide` and `compare` give for this study; variants are parted by `; `."""
    evidence = Evidence(plan, comparisons.to_pylist(), [], [])
    rows = {(row["variant"], row["kind"], row["name"]): row for row in verdicts.to_pylist()}
    return [
        _answer(evidence, rows),
        _accuracy(evidence, rows),
        _kpi("Inference cost", "inference_cost", evidence, rows),
        _kpi("Upkeep", "upkeep", evidence, rows),
        _rollout(evidence, rows),
    ]


def _variants(evidence: Evidence) -> list[str]:
    return [variant.name for variant in evidence.study.variant]


def _seeds(evidence: Evidence) -> tuple[int, int]:
    """The fewest and the most seeds that a variant shares with its same-depth twin."""
    shared = [int(evidence.loss(name, "depth")["seeds"]) for name in _variants(evidence)]
    return min(shared), max(shared)


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _grouped(said: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Variants of which the same is said, together, in the study's order."""
    groups: dict[str, list[str]] = {}
    for name, text in said:
        groups.setdefault(text, []).append(name)
    return list(groups.items())


def _together(evidence: Evidence, names: list[str], whole: str = "all {} variants") -> str:
    """These variants by name, or by their number where they are all of many."""
    everyone = len(_variants(evidence))
    return whole.format(everyone) if len(names) == everyone > _FEW else listed(names)


def _reach(least: str, most: str) -> str:
    """`12 to 66 %`, or one figure where they look the same."""
    return most if least == most else f"{least.removesuffix(' %')} to {most}"


def _answer(evidence: Evidence, rows: _Rows) -> str:
    by_outcome: dict[str, list[str]] = {MET: [], NOT_SHOWN: [], NOT_MET: []}
    for name in _variants(evidence):
        by_outcome[rows[name, "kpi", "accuracy"]["outcome"]].append(name)

    def saving(outcome: str, joint: str = "and", whole: str = "any of the {} variants") -> str:
        names = by_outcome[outcome]
        saved = {name: 100 * evidence.storage_saved(name) for name in names}
        if len(names) > _FEW:
            reach = _reach(*(f"{end(saved.values()):.0f} %" for end in (min, max)))
            return f"{_together(evidence, names, whole)} ({reach} fewer parameters)"
        return listed((f"{name} ({saved[name]:.0f} % fewer parameters)" for name in names), joint)

    parts = []
    if kept := by_outcome[MET]:
        once = " on one seed" if _seeds(evidence)[0] == 1 else ""
        verb = "keeps" if len(kept) == 1 else "keep"
        margin = f"{evidence.study.kpi.accuracy.loss_margin_nats:g} nats"
        who = saving(MET, whole="all {} variants")
        parts.append(f"Shown{once}: {who} {verb} the full model's accuracy, its loss to within {margin}.")
    if unclear := by_outcome[NOT_SHOWN]:
        scored = all(missing_text(evidence.loss(name, "depth")) is None for name in unclear)
        why = "this study is too small to tell" if scored else "too little was scored to tell"
        parts.append(f"Not shown: {why} whether {saving(NOT_SHOWN, 'or')} keeps the full model's accuracy.")
    if by_outcome[NOT_MET]:
        parts.append(f"The full model's accuracy is not kept by {saving(NOT_MET)}.")
    return " ".join(parts)


def _accuracy(evidence: Evidence, rows: _Rows) -> str:
    (fewest, most), margin = _seeds(evidence), evidence.study.kpi.accuracy.loss_margin_nats
    varied = f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
    varied = "one seed, seeds were not varied" if most == 1 else varied
    said = _compared_together(evidence, rows)
    for axis in evidence.study.twins.axes:
        if axis != "depth":
            groups = _grouped((name, _spoken(rows[name, "axis", axis]["outcome"])) for name in _variants(evidence))
            outcomes = ", ".join(f"{_together(evidence, names)} {text}" for text, names in groups)
            said.append(f"beside an independent model of equal {axis}, {outcomes}")
    return f"Accuracy ({varied}, loss may rise by {margin:g} nats): {'; '.join(said)}."


def _compared_together(evidence: Evidence, rows: _Rows) -> list[str]:
    """What is said of each variant; of many whose loss alone decides alike, the least and the most it differs by."""
    said, left = [], _variants(evidence)
    for outcome in (MET, NOT_MET):
        alike = [name for name in left if _loss_decides(evidence, rows, name) == outcome]
        if len(alike) > _FEW:
            losses = sorted(
                (evidence.loss(name, "depth") for name in alike), key=lambda loss: float(loss["difference"])
            )
            least, most = (_differs(loss, f"{loss['variant']}, ") for loss in (losses[0], losses[-1]))
            said.append(f"{_together(evidence, alike)} {_spoken(outcome)}, loss {least} to {most}")
            left = [name for name in left if name not in alike]
    return [*said, *(_compared(evidence, rows, name) for name in left)]


def _loss_decides(evidence: Evidence, rows: _Rows, name: str) -> str | None:
    """The outcome of a variant of which nothing but its loss is said."""
    kpi, loss = rows[name, "kpi", "accuracy"], evidence.loss(name, "depth")
    if kpi["measure"] == DIVERGED or missing_text(loss):
        return None
    decides = not _unshown(evidence, name) if kpi["outcome"] == MET else loss["outcome"] == "worse"
    return str(kpi["outcome"]) if decides else None


def _unshown(evidence: Evidence, name: str) -> list[str]:
    return [row["task"] for row in evidence.tasks(name) if row["outcome"] == NOT_SHOWN]


def _differs(loss: dict[str, Any], whose: str = "") -> str:
    """`+0.171 nats (interval -0.123 to +0.466)`."""
    low, high = loss["interval_low"], loss["interval_high"]
    return f"{loss['difference']:+.3f} nats ({whose}interval {low:+.3f} to {high:+.3f})"


def _compared(evidence: Evidence, rows: _Rows, name: str) -> str:
    """`cycle not shown, loss +0.171 nats (interval -0.123 to +0.466), about 6 seeds would tell`."""
    kpi, loss = rows[name, "kpi", "accuracy"], evidence.loss(name, "depth")
    text = f"{name} {_spoken(kpi['outcome'])}"
    if kpi["measure"] == DIVERGED:
        return f"{text}, {_diverged(evidence, kpi)}"
    if missing := missing_text(loss):
        return f"{text}, {missing}"
    text += f", loss {_differs(loss)}"
    if loss["outcome"] == NOT_SHOWN and kpi["outcome"] == NOT_SHOWN:
        return f"{text}, {evidence.outlook(loss)}"
    if loss["outcome"] != "worse" and kpi["outcome"] != MET:
        return f"{text}, {kpi['measure']} {kpi['value']:+.3f} (may fall by {kpi['threshold']:g})"
    tasks = _unshown(evidence, name)
    return f"{text}, not shown for {listed(tasks)}" if kpi["outcome"] == MET and tasks else text


def _diverged(evidence: Evidence, kpi: dict[str, Any]) -> str:
    return f"training diverged with {kpi['value']:.0f} of {len(evidence.study.study.seeds)} seeds"


def _kpi(title: str, kpi: str, evidence: Evidence, rows: _Rows) -> str:
    names = _variants(evidence)
    met = [name for name in names if rows[name, "kpi", kpi]["outcome"] == MET]
    brief = met if len(names) > _FEW else []  # a line of every figure would not be read; they stand in the report
    said = [f"met by {_together(evidence, brief)}"] if brief else []
    groups = _grouped((name, _decided(rows[name, "kpi", kpi])) for name in names if name not in brief)
    for text, alike in groups:
        if len(alike) > _FEW and text:
            most = rows[alike[0], "kpi", kpi]["threshold"]
            ratios = [rows[name, "kpi", kpi]["value"] for name in alike]
            reach = _reach(*(percent_text(end(ratios), most) for end in (min, max)))
            limit = f"at most {number_text(100 * most)} %"
            said.append(f"{_together(evidence, alike)} {text} {reach}{OF_FULL} ({limit})")
            continue
        for name in alike:
            row = rows[name, "kpi", kpi]
            why = _diverged(evidence, row) if row["measure"] == DIVERGED else row["reason"].rstrip(".")
            said.append(f"{name} {_spoken(row['outcome'])}, {why[0].lower()}{why[1:]}")
    return f"{title}: {'; '.join(said)}."


def _decided(row: dict[str, Any]) -> str:
    """`not met, cost per token`, where a ratio decided; else nothing."""
    is_ratio = row["measure"].endswith(" ratio") and row["value"] is not None
    return f"{_spoken(row['outcome'])}, {row['measure'].removesuffix(' ratio')}" if is_ratio else ""


def _rollout(evidence: Evidence, rows: _Rows) -> str:
    groups = _grouped((name, _reached(evidence, rows, name)) for name in _variants(evidence))
    said = [f"{_together(evidence, names)} {'is' if len(names) == 1 else 'are'} {text}" for text, names in groups]
    return f"Roll-out: {'; '.join(said)}."


def _reached(evidence: Evidence, rows: _Rows, name: str) -> str:
    """How far this variant may go, and what the next stage asks for."""
    reached = sum(rows[name, "stage", stage]["outcome"] == SUPPORTED for stage in STAGES)
    if reached == len(STAGES):
        return f"ready for the last stage, {_spoken(STAGES[-1])}"
    ready = f"ready for {_spoken(STAGES[reached - 1])} but no further" if reached else "not ready for any stage"
    return f"{ready}, since {_spoken(STAGES[reached])} {_lack(evidence, rows, name, STAGES[reached])}"


def _lack(evidence: Evidence, rows: _Rows, name: str, stage: str) -> str:
    """`asks for accuracy, which is not shown`: the first thing the stage lacks."""
    row, gate = rows[name, "stage", stage], getattr(evidence.study.rollout, stage)
    if row["measure"] in ("seeds", "training tokens"):
        return f"asks for {row['threshold']:,.0f} {row['measure']} and there are {row['value']:,.0f}"
    for kpi in gate.kpis:
        outcome = rows[name, "kpi", kpi]["outcome"]
        if outcome != MET:
            return f"asks for {_spoken(kpi)}, which is {_spoken(outcome)}"
    short = next(axis for axis in gate.axes if rows[name, "axis", axis]["outcome"] not in KEPT)
    return f"asks for no loss at equal {short}, where it is {_spoken(rows[name, 'axis', short]['outcome'])}"
