"""From one row an item to one row a comparison: variants meet their twins, seed by seed, document by document."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sharelm.metrics import METRICS, MetricKind
from sharelm.statistics.claims import Claim, Estimate, claims
from sharelm.statistics.intervals import (
    Floats,
    document_standard_errors,
    documents_alone,
    documents_freedom,
    seed_standard_error,
    unpaired_standard_error,
)
from sharelm.statistics.mcnemar import Discordant, discordant
from sharelm.statistics.panel import Metric, Panel, build_panel
from sharelm.study import Comparison, Plan, Study
from sharelm.study.evaluation import Task
from sharelm.tables.rows import ComparisonRow, table_of

ALL = "all"


@dataclass(frozen=True)
class Paired:
    """What was measured of a variant and its twin, if anything was.

    `estimate` is the difference with its errors, None with fewer than two documents; `ends` are those of its interval.
    """

    variant_value: float | None = None
    twin_value: float | None = None
    difference: float | None = None
    standard_error_seeds: float | None = None
    standard_error_seeds_alone: float | None = None
    standard_error_documents: float | None = None
    standard_error_paired: float | None = None
    standard_error_unpaired: float | None = None
    degrees_of_freedom: int | None = None
    degrees_of_freedom_documents: float | None = None
    estimate: Estimate | None = None
    ends: tuple[float, float] | None = None


def paired(
    panel: Panel, arms: tuple[str, str], metric: Metric, seeds: list[int], error: float, confidence: float
) -> Paired:
    """The figures of a variant and its twin, the first of these arms and the second, over one seed or more.

    `error` is the standard error of the difference over documents.
    """
    rows = [panel.rows(arm, seeds) for arm in arms]
    variant, twin = (metric.figures(trials) for trials in rows)
    pool = np.stack([metric.figures(panel.rows(arm, seeds)) for arm in panel.arms_with(seeds)])
    seeds_error, freedom = seed_standard_error(variant, twin, pool)
    seeds_alone, _ = seed_standard_error(variant, twin, np.stack([variant, twin]))
    difference, documents = float((variant - twin).mean()), len(metric.sizes)
    sums, theirs = (metric.numerators[trials] for trials in rows)
    estimate, unpaired = None, None
    if documents > 1:
        alone = documents_alone(error, sums - theirs, metric.sizes)
        rests_on = documents_freedom((sums - theirs).mean(axis=0), metric.sizes)
        estimate = Estimate(difference, alone, rests_on, seeds_error, freedom)
        unpaired = unpaired_standard_error(sums.mean(axis=0), theirs.mean(axis=0), metric.sizes)
    return Paired(
        variant_value=float(variant.mean()),
        twin_value=float(twin.mean()),
        difference=difference,
        standard_error_seeds=seeds_error,
        standard_error_seeds_alone=seeds_alone,
        standard_error_documents=estimate.documents_error if estimate else None,
        standard_error_paired=error if estimate else None,
        standard_error_unpaired=unpaired,
        degrees_of_freedom=freedom,
        degrees_of_freedom_documents=estimate.documents_freedom if estimate else None,
        estimate=estimate,
        ends=estimate.ends(confidence) if estimate else None,
    )


def mean_difference(panel: Panel, arms: tuple[str, str], metric: Metric, seeds: list[int]) -> Floats:
    """Variant less twin of each document's sum, the mean over seeds; zeros where there is no seed to compare."""
    if not seeds:
        return np.zeros_like(metric.sizes)
    variant, twin = (metric.numerators[panel.rows(arm, seeds)] for arm in arms)
    difference: Floats = (variant - twin).mean(axis=0)
    return difference


def _claims(study: Study, metric: MetricKind, domain: str, found: list[Paired]) -> list[Claim] | None:
    """What is claimed of each of these comparisons, or None where nothing is."""
    accuracy = study.kpi.accuracy
    if domain != ALL or metric.margin is None:
        return None
    sign = -1 if metric.higher_is_better else 1
    estimates = [one.estimate and replace(one.estimate, difference=sign * one.estimate.difference) for one in found]
    margin = getattr(accuracy, metric.margin)
    if metric.decides:  # the verdict rests on these: they are one family
        return claims(estimates, margin, accuracy.confidence)
    return [claim for one in estimates for claim in claims([one], margin, accuracy.confidence)]


def _compare_panel(
    study: Study, pairs: list[Comparison], task: Task, domain: str, scores: pa.Table
) -> list[ComparisonRow]:
    """The comparisons on the rows of one task, or of one domain of it."""
    panel, confidence = build_panel(scores, task.kind), study.kpi.accuracy.confidence
    columns = [
        (pair, (pair.variant, pair.twin), metric, panel.common_seeds(pair.variant, pair.twin))
        for pair in pairs
        for metric in panel.metrics
    ]
    errors = document_standard_errors(
        np.stack([mean_difference(panel, arms, metric, seeds) for _, arms, metric, seeds in columns], axis=1),
        np.stack([metric.sizes for _, _, metric, _ in columns], axis=1),
        np.random.default_rng([zlib.crc32(task.name.encode()), zlib.crc32(domain.encode())]),
    )
    found = [
        paired(panel, arms, metric, seeds, error, confidence) if seeds and len(metric.sizes) else Paired()
        for (_, arms, metric, seeds), error in zip(columns, errors.tolist(), strict=True)
    ]
    claimed: dict[int, Claim] = {}
    for name in (metric.name for metric in panel.metrics):
        places = [at for at, (_, _, metric, _) in enumerate(columns) if metric.name == name]
        claimed |= zip(places, _claims(study, METRICS[name], domain, [found[at] for at in places]) or [], strict=False)
    rows = []
    for at, ((pair, arms, metric, seeds), one) in enumerate(zip(columns, found, strict=True)):
        kind, claim = METRICS[metric.name], claimed.get(at)
        low, high = (claim and one.estimate and one.estimate.ends(claim.confidence)) or one.ends or (None, None)
        tosses = _discordant(kind, scores, arms, seeds)
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
            variant_value=one.variant_value,
            twin_value=one.twin_value,
            difference=one.difference,
            interval_low=low,
            interval_high=high,
            confidence=claim.confidence if claim else confidence,
            standard_error_seeds=one.standard_error_seeds,
            standard_error_seeds_alone=one.standard_error_seeds_alone,
            standard_error_documents=one.standard_error_documents,
            standard_error_paired=one.standard_error_paired,
            standard_error_unpaired=one.standard_error_unpaired,
            degrees_of_freedom=one.degrees_of_freedom,
            degrees_of_freedom_documents=one.degrees_of_freedom_documents,
            seeds=len(seeds),
            documents=len(metric.sizes) if seeds else 0,
            margin=getattr(study.kpi.accuracy, kind.margin or "") if claim else None,
            outcome=claim.outcome if claim else None,
            p_not_worse=claim.p_not_worse if claim else None,
            p_better=claim.p_better if claim else None,
            p_worse=claim.p_worse if claim else None,
            p_equivalent=claim.p_equivalent if claim else None,
            only_variant_right=tosses.only_variant if tosses else None,
            only_twin_right=tosses.only_twin if tosses else None,
            mcnemar_p=tosses.p if tosses else None,
        )
        rows.append(row)
    return rows


def _discordant(kind: MetricKind, scores: pa.Table, arms: tuple[str, str], seeds: list[int]) -> Discordant | None:
    """The items that only one of the arms has right; None for a metric that does not count items, and without seeds."""
    if kind.numerator != "correct" or not seeds:
        return None
    return discordant(scores, *arms, seeds)


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
        rows += _compare_panel(study, pairs, task, ALL, scored)
        if task.traits.by_domain:
            for domain in sorted(pc.unique(scored["domain"]).to_pylist()):
                here = scored.filter(pc.equal(scored["domain"], domain))
                rows += _compare_panel(study, pairs, task, domain, here)
    return table_of(ComparisonRow, rows)
