"""The verdict: for every variant its axes, its KPIs and its roll-out stages. Never one winner for all."""

from __future__ import annotations

import pyarrow as pa

from sharelm.study import Plan
from sharelm.tables.rows import Finding, table_of
from sharelm.verdict.axes import axis_findings
from sharelm.verdict.finding import Evidence
from sharelm.verdict.kpis import kpi_findings
from sharelm.verdict.stages import stage_findings


def decide(plan: Plan, comparisons: pa.Table, trials: pa.Table, costs: pa.Table) -> pa.Table:
    """What the evidence shows for each variant of the study: a table of the `verdicts` schema.

    `comparisons` is what `sharelm.statistics.compare` gives for this study; `trials` and `costs` are the tables of
    those schemas. Raises `InputError` where `comparisons` lacks a variant.
    """
    evidence = Evidence.of(plan, comparisons, trials, costs)
    findings: list[Finding] = []
    for variant in plan.study.variant:
        axes, kpis = axis_findings(evidence, variant.name), kpi_findings(evidence, variant.name)
        findings += [*axes, *kpis, *stage_findings(evidence, variant.name, axes, kpis)]
    return table_of(Finding, findings)
