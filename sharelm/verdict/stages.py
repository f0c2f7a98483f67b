"""Which roll-out stage the evidence supports for a variant: each gate, in order, and the first thing it lacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sharelm.errors import InputError
from sharelm.study.thresholds import STAGES, Gate
from sharelm.tables.findings import Finding
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
            waits = {"first": short.name, "lack": short.said}
            finding = replace(short, name=stage, code="gate_waits", figures=waits)
        found.append(finding)
    return found


def _gate(
    evidence: Evidence, variant: str, stage: str, gate: Gate, axes: list[Finding], kpis: list[Finding]
) -> Finding:
    def lacks(code: str, measure: str | None, value: float | None, threshold: float | None, **figures: Any) -> Finding:
        figures |= {"stage": stage, "value": value, "threshold": threshold}
        return Finding(variant, "stage", stage, NOT_SUPPORTED, code, measure, value, threshold, figures)

    def short_of(code: str, found: Finding) -> Finding:
        figures = {"of": found.name, "outcome": found.outcome, "finding": found.said}
        return lacks(code, found.measure, found.value, found.threshold, **figures)

    for kpi in kpis:
        if kpi.name in gate.kpis and kpi.outcome != MET:
            return short_of("gate_kpi", kpi)
    seeds = min(evidence.loss(variant, axis)["seeds"] for axis in ("depth", *gate.axes))
    if seeds < gate.seeds:
        return lacks("gate_seeds", "seeds", seeds, gate.seeds)
    arms = {variant, evidence.twin(variant), *(evidence.twin(variant, axis) for axis in gate.axes)}
    tokens = min((row["tokens"] for arm in arms for row in evidence.trials_of(arm, "done")), default=0)
    if tokens < gate.training_tokens:
        return lacks("gate_tokens", "training_tokens", tokens, gate.training_tokens)
    for axis in axes:
        if axis.name in gate.axes and axis.outcome not in KEPT:
            return short_of("gate_axis", axis)
    return Finding(variant, "stage", stage, SUPPORTED, "gate_met", None, None, None, {})


def supported_variants(verdicts: pa.Table, stage: str) -> list[str]:
    """The variants for which the `verdicts` table supports this stage, in the study's order."""
    if stage not in STAGES:
        raise InputError(f"stage = {stage!r} is not known; there are {', '.join(STAGES)}")
    wanted = pc.field("kind").isin(["stage"]) & (pc.field("name") == stage) & (pc.field("outcome") == SUPPORTED)
    names: list[str] = verdicts.filter(wanted)["variant"].to_pylist()
    return names
