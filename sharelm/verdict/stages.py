"""Which roll-out stage the evidence supports for a variant: each gate, in order, and the first thing it lacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from sharelm.errors import InputError
from sharelm.study.thresholds import STAGES, Gate
from sharelm.tables.messages import as_json
from sharelm.tables.rows import Finding, rows_of
from sharelm.verdict.finding import KEPT, MET, Evidence

SUPPORTED, NOT_SUPPORTED = "supported", "not_supported"


def stage_findings(evidence: Evidence, variant: str, axes: list[Finding], kpis: list[Finding]) -> list[Finding]:
    """One finding for each stage; a stage is supported only where the one before it is."""
    found: list[Finding] = []
    short: Finding | None = None  # the first stage that is not supported
    for stage in STAGES:
        if short is None:
            finding = _gate(evidence, variant, stage, getattr(evidence.study.rollout, stage), axes, kpis)
            short = finding if finding.outcome == NOT_SUPPORTED else None
        else:
            waits = as_json({"first": short.name, "lack": short.message})
            finding = replace(short, name=stage, code="gate_waits", figures_json=waits)
        found.append(finding)
    return found


def _gate(
    evidence: Evidence, variant: str, stage: str, gate: Gate, axes: list[Finding], kpis: list[Finding]
) -> Finding:
    def lacks(code: str, measure: str | None, value: float | None, threshold: float | None, **figures: Any) -> Finding:
        figures |= {"stage": stage, "value": value, "threshold": threshold}
        return Finding(variant, "stage", stage, NOT_SUPPORTED, code, measure, value, threshold, as_json(figures))

    def short_of(code: str, found: Finding) -> Finding:
        figures = {"of": found.name, "outcome": found.outcome, "finding": found.message}
        return lacks(code, found.measure, found.value, found.threshold, **figures)

    for kpi in kpis:
        if kpi.name in gate.kpis and kpi.outcome != MET:
            return short_of("gate_kpi", kpi)
    seeds = min(evidence.loss(variant, axis).seeds for axis in ("depth", *gate.axes))
    if seeds < gate.seeds:
        return lacks("gate_seeds", "seeds", seeds, gate.seeds)
    arms = {variant, evidence.twin(variant), *(evidence.twin(variant, axis) for axis in gate.axes)}
    tokens = min((row.tokens for arm in arms for row in evidence.trials_of(arm, "done")), default=0)
    if tokens < gate.training_tokens:
        return lacks("gate_tokens", "training_tokens", tokens, gate.training_tokens)
    for axis in axes:
        if axis.name in gate.axes and axis.outcome not in KEPT:
            return short_of("gate_axis", axis)
    return Finding(variant, "stage", stage, SUPPORTED, "gate_met", None, None, None, as_json({}))


def supported_variants(verdicts: pa.Table, stage: str) -> list[str]:
    """The variants for which the `verdicts` table supports this stage, in the study's order."""
    if stage not in STAGES:
        raise InputError(f"stage = {stage!r} is not known; there are {', '.join(STAGES)}")
    wanted = ("stage", stage, SUPPORTED)
    return [row.variant for row in rows_of(Finding, verdicts) if (row.kind, row.name, row.outcome) == wanted]
