"""From one row an item to one row a comparison: variants meet their twins, seed by seed, document by document."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sharelm.metrics import METRICS, MetricKind
from sharelm.statistics.intervals import Floats, document_standard_errors, interval, outcome, seed_standard_error
from sharelm.statistics.panel import Metric, Panel, build_panel
from sharelm.study import Comparison, Plan, Study
from sharelm.study.evaluation import Task
from sharelm.tables.rows import ComparisonRow, table_of

ALL = "all"


def _judged(study: Study, family: int, metric: MetricKind, domain: str) -> tuple[float, float | None]:
    """The confidence of the interval, and the margin it is held against; `family` is the number of comparisons."""
    accuracy = study.kpi.accuracy
    if domain != ALL or metric.margin is None:
        return accuracy.confidence, None
    # the family of claims the verdict rests on is corrected after Bonferroni
    confidence = 1 - (1 - accuracy.confidence) / family if metric.decides else accuracy.confidence
    return confidence, getattr(accuracy, metric.margin)


@dataclass(frozen=True)
class Paired:
    """What was measured of a variant and its twin, if anything was; `ends` are those of the interval."""

    variant_value: float | None = None
    twin_value: float | None = None
    difference: float | None = None
    standard_error_seeds: float | None = None
    standard_error_documents: float | None = None
    degrees_of_freedom: int | None = None
    ends: tuple[float, float] | None = None


def paired(
    panel: Panel, arms: tuple[str, str], metric: Metric, seeds: list[int], error: float, confidence: float
) -> Paired:
    """The figures of a variant and its twin, the first of these arms and the second, over one seed or more.

    `error` is the standard error of the difference over documents.
    """
    variant, twin = (metric.figures(panel.rows(arm, seeds)) for arm in arms)
    pool = np.stack([metric.figures(panel.rows(arm, seeds)) for arm in panel.arms_with(seeds)])
    seeds_error, freedom = seed_standard_error(variant, twin, pool)
    difference, documents = float((variant - twin).mean()), len(metric.sizes)
    several = documents > 1
    return Paired(
        variant_value=float(variant.mean()),
        twin_value=float(twin.mean()),
        difference=difference,
        standard_error_seeds=seeds_error,
        standard_error_documents=error if several else None,
        degrees_of_freedom=freedom,
        ends=interval(difference, error, documents, seeds_error, freedom, confidence) if several else None,
    )


def mean_difference(panel: Panel, arms: tuple[str, str], metric: Metric, seeds: list[int]) -> Floats:
    """Variant less twin of each document's sum, the mean over seeds; zeros where there is no seed to compare."""
    if not seeds:
        return np.zeros_like(metric.sizes)
    variant, twin = (metric.numerators[panel.rows(arm, seeds)] for arm in arms)
    difference: Floats = (variant - twin).mean(axis=0)
    return difference


def _compare_panel(study: Study, pairs: list[Comparison], task: Task, domain: str, panel: Panel) -> list[ComparisonRow]:
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
        found = paired(panel, arms, metric, seeds, error, confidence) if documents else Paired()
        low, high = found.ends or (None, None)
        row = ComparisonRow(
            variant=pair.variant,
            twin=pair.twin,
            axis=pair.axis,
            axis_target=float(pair.target),
            axis_reached=float(pair.reached),
            axis_relative_error=pair.relative_error,
            task=task.name,
            domain=domain,
            metric=metric.name,
            variant_value=found.variant_value,
            twin_value=found.twin_value,
            difference=found.difference,
            interval_low=low,
            interval_high=high,
            confidence=confidence,
            standard_error_seeds=found.standard_error_seeds,
            standard_error_documents=found.standard_error_documents,
            degrees_of_freedom=found.degrees_of_freedom,
            seeds=len(seeds),
            documents=documents,
            margin=margin,
            outcome=None if margin is None else outcome(found.ends, margin, lower_is_better=not kind.higher_is_better),
        )
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
    rows: list[ComparisonRow] = []
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
    return table_of(ComparisonRow, rows)
