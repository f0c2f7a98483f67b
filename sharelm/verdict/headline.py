"""Five lines a manager reads: the answer, accuracy, inference cost, upkeep, and how far to roll out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from sharelm.study import Study
from sharelm.study.tree import STAGES
from sharelm.verdict.finding import KEPT, MET, NOT_SHOWN, Evidence, interval_text, listed, number_text
from sharelm.verdict.stages import SUPPORTED

_Rows = dict[tuple[str, str, str], dict[str, Any]]


def headline(study: Study, verdicts: pa.Table, comparisons: pa.Table) -> list[str]:
    """Five lines from the tables that `decide` and `compare` give for this study."""
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


def _seeds(evidence: Evidence) -> int:
    """The fewest seeds that any variant shares with its same-depth twin."""
    return min(int(evidence.loss(name, "depth")["seeds"]) for name in _variants(evidence))


def _answer(evidence: Evidence, rows: _Rows) -> str:
    outcomes = {name: rows[name, "kpi", "accuracy"]["outcome"] for name in _variants(evidence)}
    margin = f"{evidence.study.kpi.accuracy.loss_margin_nats:g} nats"
    kept = [name for name, outcome in outcomes.items() if outcome == MET]
    if kept:
        saved = [f"{name} (storing {100 * evidence.storage_saved(name):.0f} % fewer parameters)" for name in kept]
        verb = "keeps" if len(kept) == 1 else "keep"
        once = " on one seed" if _seeds(evidence) == 1 else ""
        return f"Shown{once}: {listed(saved)} {verb} the loss within {margin} of the model it would replace."
    if NOT_SHOWN in outcomes.values():
        return f"Not shown that any variant keeps the loss within {margin} of the model it would replace."
    return f"No variant keeps accuracy within the margins (loss: {margin}) of the model it would replace."


def _accuracy(evidence: Evidence, rows: _Rows) -> str:
    said = []
    for name in _variants(evidence):
        kpi, loss = rows[name, "kpi", "accuracy"], evidence.loss(name, "depth")
        text = f"{name} {_spoken(kpi['outcome'])}"
        if loss["interval_low"] is not None:
            text += f", loss {interval_text(loss)}"
        if loss["outcome"] in KEPT and kpi["outcome"] != MET:
            text += f", {kpi['measure']}"
        for axis in evidence.study.twins.axes:
            if axis != "depth":
                text += f", equal {axis} {_spoken(rows[name, 'axis', axis]['outcome'])}"
        said.append(text)
    seeds = _seeds(evidence)
    varied = "one seed, seeds were not varied" if seeds == 1 else f"{seeds} seeds"
    return f"Accuracy ({varied}): {'; '.join(said)}."


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _kpi(title: str, kpi: str, evidence: Evidence, rows: _Rows) -> str:
    said = []
    for name in _variants(evidence):
        row = rows[name, "kpi", kpi]
        value = (
            "not measured"
            if row["value"] is None
            else f"{number_text(row['value'])}, at most {number_text(row['threshold'])}"
        )
        said.append(f"{name} {_spoken(row['outcome'])} ({row['measure']} {value})")
    return f"{title}: {'; '.join(said)}."


def _rollout(evidence: Evidence, rows: _Rows) -> str:
    reached = {
        name: sum(rows[name, "stage", stage]["outcome"] == SUPPORTED for stage in STAGES)
        for name in _variants(evidence)
    }
    best = max(reached.values())
    names = [name for name, stages in reached.items() if stages == best]
    start = f"{_spoken(STAGES[best - 1])} is supported for {listed(names)}" if best else "no stage is supported"
    if best == len(STAGES):
        return f"Roll-out: {start}, the last stage."
    following = STAGES[best]
    lacking = [f"{name} {_lack(rows[name, 'stage', following])}" for name in names]
    return f"Roll-out: {start}; {_spoken(following)} lacks: {'; '.join(lacking)}."


def _lack(row: dict[str, Any]) -> str:
    value = (
        "not measured"
        if row["value"] is None
        else f"{number_text(row['value'])}, threshold {number_text(row['threshold'])}"
    )
    return f"{row['measure']} ({value})"
