"""Which roll-out stage the evidence supports for a variant: each gate, in order, and the first thing it lacks."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from sharelm.errors import InputError
from sharelm.study.tree import STAGES, Gate
from sharelm.verdict.finding import KEPT, MET, Evidence, Finding

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
            finding = replace(short, name=stage, reason=f"{_spoken(short.name)} comes first. {short.reason}")
        found.append(finding)
    return found


def _spoken(name: str) -> str:
    text = name.replace("_", " ")
    return text[0].upper() + text[1:]


def _gate(
    evidence: Evidence, variant: str, stage: str, gate: Gate, axes: list[Finding], kpis: list[Finding]
) -> Finding:
    def lacks(measure: str, value: float | None, threshold: float | None, reason: str) -> Finding:
        return Finding(variant, "stage", stage, NOT_SUPPORTED, measure, value, threshold, reason)

    for kpi in kpis:
        if kpi.name in gate.kpis and kpi.outcome != MET:
            said = f"{_spoken(kpi.name)} is {kpi.outcome.replace('_', ' ')}. {kpi.reason}"
            return lacks(kpi.measure or kpi.name, kpi.value, kpi.threshold, said)
    seeds = min(evidence.loss(variant, axis)["seeds"] for axis in ("depth", *gate.axes))
    if seeds < gate.seeds:
        return lacks("seeds", seeds, gate.seeds, f"{seeds} of the {gate.seeds} seeds it asks for were compared.")
    arms = {variant, evidence.twin(variant), *(evidence.twin(variant, axis) for axis in gate.axes)}
    tokens = min((row["tokens"] for arm in arms for row in evidence.trials_of(arm, "done")), default=0)
    if tokens < gate.training_tokens:
        said = f"{tokens:,} of the {gate.training_tokens:,} training tokens it asks for were seen."
        return lacks("training tokens", tokens, gate.training_tokens, said)
    for axis in axes:
        if axis.name in gate.axes and axis.outcome not in KEPT:
            said = f"The {axis.name} axis is {axis.outcome.replace('_', ' ')}. {axis.reason}"
            return lacks(axis.measure or axis.name, axis.value, axis.threshold, said)
    return Finding(variant, "stage", stage, SUPPORTED, None, None, None, "Every condition of its gate is met.")


def supported_variants(verdicts: pa.Table, stage: str) -> list[str]:
    """The variants for which the `verdicts` table supports this stage, in the study's order."""
    if stage not in STAGES:
        raise InputError(f"stage = {stage!r} is not known; there are {', '.join(STAGES)}")
    wanted = pc.field("kind").isin(["stage"]) & (pc.field("name") == stage) & (pc.field("outcome") == SUPPORTED)
    names: list[str] = verdicts.filter(wanted)["variant"].to_pylist()
    return names
