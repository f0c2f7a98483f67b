"""From one row an item to one row a comparison: variants meet their twins, seed by seed, document by document."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sharelm.metrics import METRICS, MetricKind
from sharelm.statistics.intervals import Floats, document_standard_errors, interval, outcome, seed_standard_error
from sharelm.statistics.panel import Metric, Panel, build_panel
from sharelm.study import Comparison, Plan, Study
from sharelm.study.evaluation import Task
from sharelm.tables import TABLES

ALL = "all"


def _judged(study: Study, family: int, metric: MetricKind, domain: str) -> tuple[float, float | None]:
    """The confidence of the interval, and the margin it is held against; `family` is the number of comparisons."""
    accuracy = study.kpi.accuracy
    if domain != ALL or metric.margin is None:
        return accuracy.confidence, None
    # the family of claims the verdict rests on is corrected after Bonferroni
    confidence = 1 - (1 - accuracy.confidence) / family if metric.decides else accuracy.confidence
    return confidence, getattr(accuracy, metric.margin)


def paired_figures(
    panel: Panel, arms: tuple[str, str], metric: Metric, seeds: list[int], error: float, confidence: float
) -> dict[str, Any]:
    """What was measured of a variant and its twin: figures, difference and, with two documents or more, interval.

    `error` is the standard error of the difference over documents.
    """
    variant, twin = (metric.figures(panel.rows(arm, seeds)) for arm in arms)
    pool = np.stack([metric.figures(panel.rows(arm, seeds)) for arm in panel.arms_with(seeds)])
    seeds_error, freedom = seed_standard_error(variant, twin, pool)
    difference = float((variant - twin).mean())
    found: dict[str, Any] = {
        "variant_value": float(variant.mean()),
        "twin_value": float(twin.mean()),
        "difference": difference,
        "standard_error_seeds": seeds_error,
        "degrees_of_freedom": freedom,
    }
    documents = len(metric.sizes)
    if documents > 1:
        ends = interval(difference, error, documents, seeds_error, freedom, confidence)
        found |= {"interval_low": ends[0], "interval_high": ends[1], "standard_error_documents": error}
    return found


def mean_difference(panel: Panel, arms: tuple[str, str], metric: Metric, seeds: list[int]) -> Floats:
    """Variant less twin of each document's sum, the mean over seeds; zeros where there is no seed to compare."""
    if not seeds:
        return np.zeros_like(metric.sizes)
    variant, twin = (metric.numerators[panel.rows(arm, seeds)] for arm in arms)
    difference: Floats = (variant - twin).mean(axis=0)
    return difference


def _compare_panel(
    study: Study, pairs: list[Comparison], task: Task, domain: str, panel: Panel
) -> list[dict[str, Any]]:
    columns = [
        (pair, (pair.variant, pair.twin), metric, panel.common_seeds(pair.variant, pair.twin))
        for pair in pairs
        for metric in panel.metrics
    ]
    errors = document_standard_errors(
        np.stack(
            [mean_difference(panel, arms, metric, seeds) for _, arms, metric, seeds in columns],
            axis=1,
        ),
        np.stack([metric.sizes for _, _, metric, _ in columns], axis=1),
        np.random.default_rng([zlib.crc32(task.name.encode()), zlib.crc32(domain.encode())]),
    )
    rows = []
    for (pair, arms, metric, seeds), error in zip(columns, errors.tolist(), strict=True):
        kind = METRICS[metric.name]
        confidence, margin = _judged(study, len(pairs), kind, domain)
        documents = len(metric.sizes) if seeds else 0
        row: dict[str, Any] = {
            "variant": pair.variant,
            "twin": pair.twin,
            "axis": pair.axis,
            "axis_target": float(pair.target),
            "axis_reached": float(pair.reached),
            "axis_relative_error": pair.relative_error,
            "task": task.name,
            "domain": domain,
            "metric": metric.name,
            "confidence": confidence,
            "seeds": len(seeds),
            "documents": documents,
            "margin": margin,
        }
        if documents:
            row |= paired_figures(panel, arms, metric, seeds, error, confidence)
        if margin is not None:
            ends = (row["interval_low"], row["interval_high"]) if "interval_low" in row else None
            row["outcome"] = outcome(ends, margin, lower_is_better=not kind.higher_is_better)
        rows.append(row)
    return rows


def compare(plan: Plan, scores: pa.Table) -> pa.Table:
    """Every variant with its twin on every axis, for every task: a table of the `comparisons` schema.

    `scores` holds the rows of the `scores` schema of all trials. Only seeds that both arms have are compared (a
    trial that diverged has no scores); with none, or no document, the figures are null and the outcome not_shown.
    Difference is variant less twin: nats a token, bits a byte, or share of items right.

    Raises `InputError` when trials were scored on different documents, an item is there twice, or a score is
    null or not finite.
    """
    rows: list[dict[str, Any]] = []
    study, pairs = plan.study, list(plan.comparisons)
    # A rung of the ladder is compared with nothing: its spread over seeds must not enter those of the arms that are.
    named = pa.array(sorted({arm for pair in pairs for arm in (pair.variant, pair.twin)}))
    scores = scores.filter(pc.is_in(scores["arm"], named))
    for task in study.evaluation.task:
        scored = scores.filter(pc.equal(scores["task"], task.name))
        rows += _compare_panel(study, pairs, task, ALL, build_panel(scored, task.kind))
        if task.traits.by_domain:
            for domain in sorted(pc.unique(scored["domain"]).to_pylist()):
                here = scored.filter(pc.equal(scored["domain"], domain))
                rows += _compare_panel(study, pairs, task, domain, build_panel(here, task.kind))
    return pa.Table.from_pylist(rows, schema=TABLES["comparisons"])
