"""Five lines a manager reads: the answer, accuracy, inference cost, upkeep, and how far to roll out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from sharelm.study import Study
from sharelm.study.tree import STAGES
from sharelm.verdict.finding import DIVERGED, KEPT, MET, NOT_MET, NOT_SHOWN, Evidence, listed, missing_text
from sharelm.verdict.stages import SUPPORTED

_FEW = 3  # variants whose figures a line has room for
_Rows = dict[tuple[str, str, str], dict[str, Any]]


def headline(study: Study, verdicts: pa.Table, comparisons: pa.Table) -> list[str]:
    """Five lines from the tables that `decide` and `compare` give for this study; variants are parted by `; `."""
    evidence = Evidence(study, comparisons.to_pylist(), [], [])
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


def _answer(evidence: Evidence, rows: _Rows) -> str:
    by_outcome: dict[str, list[str]] = {MET: [], NOT_SHOWN: [], NOT_MET: []}
    for name in _variants(evidence):
        by_outcome[rows[name, "kpi", "accuracy"]["outcome"]].append(name)

    def saving(outcome: str, joint: str = "and") -> str:
        saved = [
            f"{name} ({100 * evidence.storage_saved(name):.0f} % fewer parameters)" for name in by_outcome[outcome]
        ]
        return listed(saved, joint)

    parts = []
    if kept := by_outcome[MET]:
        once = " on one seed" if _seeds(evidence)[0] == 1 else ""
        verb = "keeps" if len(kept) == 1 else "keep"
        margin = f"{evidence.study.kpi.accuracy.loss_margin_nats:g} nats"
        parts.append(f"Shown{once}: {saving(MET)} {verb} the full model's accuracy, its loss to within {margin}.")
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
    said = [_compared(evidence, rows, name) for name in _variants(evidence)]
    for axis in evidence.study.twins.axes:
        if axis != "depth":
            groups = _grouped((name, _spoken(rows[name, "axis", axis]["outcome"])) for name in _variants(evidence))
            outcomes = ", ".join(f"{listed(names)} {text}" for text, names in groups)
            said.append(f"beside an independent model of equal {axis}, {outcomes}")
    return f"Accuracy ({varied}, loss may rise by {margin:g} nats): {'; '.join(said)}."


def _compared(evidence: Evidence, rows: _Rows, name: str) -> str:
    """`cycle not shown, loss +0.171 nats (interval -0.123 to +0.466), about 6 seeds would tell`."""
    kpi, loss = rows[name, "kpi", "accuracy"], evidence.loss(name, "depth")
    text = f"{name} {_spoken(kpi['outcome'])}"
    if kpi["measure"] == DIVERGED:
        return f"{text}, {_diverged(evidence, kpi)}"
    if missing := missing_text(loss):
        return f"{text}, {missing}"
    low, high = loss["interval_low"], loss["interval_high"]
    text += f", loss {loss['difference']:+.3f} nats (interval {low:+.3f} to {high:+.3f})"
    if loss["outcome"] == NOT_SHOWN and kpi["outcome"] == NOT_SHOWN:
        return f"{text}, {evidence.outlook(loss)}"
    if loss["outcome"] != "worse" and kpi["outcome"] != MET:
        return f"{text}, {kpi['measure']} {kpi['value']:+.3f} (may fall by {kpi['threshold']:g})"
    tasks = [row["task"] for row in evidence.tasks(name) if row["outcome"] == NOT_SHOWN]
    return f"{text}, not shown for {listed(tasks)}" if kpi["outcome"] == MET and tasks else text


def _diverged(evidence: Evidence, kpi: dict[str, Any]) -> str:
    return f"training diverged with {kpi['value']:.0f} of {len(evidence.study.study.seeds)} seeds"


def _kpi(title: str, kpi: str, evidence: Evidence, rows: _Rows) -> str:
    names = _variants(evidence)
    met = [name for name in names if rows[name, "kpi", kpi]["outcome"] == MET]
    brief = met if len(names) > _FEW else []  # a line of every figure would not be read; they stand in the report
    said = [f"met by {listed(brief)}"] if brief else []
    for name in names:
        if name in brief:
            continue
        row = rows[name, "kpi", kpi]
        why = _diverged(evidence, row) if row["measure"] == DIVERGED else row["reason"].rstrip(".")
        said.append(f"{name} {_spoken(row['outcome'])}, {why[0].lower()}{why[1:]}")
    return f"{title}: {'; '.join(said)}."


def _rollout(evidence: Evidence, rows: _Rows) -> str:
    groups = _grouped((name, _reached(evidence, rows, name)) for name in _variants(evidence))
    said = [f"{listed(names)} {'is' if len(names) == 1 else 'are'} {text}" for text, names in groups]
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
