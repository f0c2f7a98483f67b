"""Quality of a night, and beside that of its baseline's night: the same arms, paired by seed and document."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sharelm.metrics import METRICS
from sharelm.nightly.measures import Figure, Worse
from sharelm.statistics.compare import Paired, mean_difference, paired
from sharelm.statistics.intervals import document_standard_errors
from sharelm.statistics.panel import Panel, build_panel
from sharelm.study import Plan, Study
from sharelm.study.evaluation import Task

CONFIDENCE = 0.98  # by chance alone an interval lies wholly on the worse side of zero once in 100 nights
_THEN = "then:"  # before the name of an arm of the baseline's night


@dataclass(frozen=True)
class Change:
    """How far a night's figure lies from the baseline night's, in the metric's unit, and what that makes the night."""

    then: float
    difference: float
    ends: tuple[float, float] | None
    state: str  # well, worse or better


def quality_figures(plan: Plan, scores: pa.Table) -> list[Figure]:
    """Every arm's figure of every metric of every task, over all domains, the mean over its seeds."""
    found = []
    for task in plan.study.evaluation.task:
        panel = build_panel(scores.filter(pc.equal(scores["task"], task.name)), task.kind)
        for arm in sorted({arm for arm, _ in panel.trials}):
            trials = panel.rows(arm, panel.common_seeds(arm))
            for metric in panel.metrics:
                kind = METRICS[metric.name]
                value = float(metric.figures(trials).mean())
                worse: Worse = "lower" if kind.higher_is_better else "higher"
                found.append(Figure(metric.name, f"{arm}/{task.name}", kind.unit, worse, value))
    return found


def change_of(study: Study, scores: pa.Table, baseline: pa.Table, figure: Figure) -> Change | None:
    """This figure of a night's scores beside that of the baseline's, by the seeds that both have; None without one.

    It is worse where every seed by itself is worse by more than the study's margin, its documents' interval considered:
    the same seed of the same code gives the same scores, so that more is a change. Below the margin the interval over
    seeds and documents decides, which one seed has not, and which is wide with two.

    Raises `InputError` where the two were scored on different documents.
    """
    arm, _, name = figure.subject.rpartition("/")
    (task,) = (task for task in study.evaluation.task if task.name == name)
    panel, arms = _both(scores, baseline, arm, task), (arm, _THEN + arm)
    if not all(any(there == one for there, _ in panel.trials) for one in arms):
        return None
    seeds = panel.common_seeds(*arms)
    (metric,) = (metric for metric in panel.metrics if metric.name == figure.metric)
    if not seeds or not len(metric.sizes):
        return None
    kind = METRICS[figure.metric]
    rng = np.random.default_rng(zlib.crc32(figure.key.encode()))

    def over(some: list[int]) -> Paired:
        differences = mean_difference(panel, arms, metric, some)
        (error,) = document_standard_errors(differences[:, None], metric.sizes[:, None], rng).tolist()
        return paired(panel, arms, metric, some, error, CONFIDENCE)

    found = over(seeds)
    assert found.twin_value is not None
    assert found.difference is not None  # there is a seed and a document
    margin = getattr(study.kpi.accuracy, kind.margin) if kind.margin else float("inf")
    by_seed = {_state(over([seed]).ends, margin, kind.higher_is_better) for seed in seeds}
    if len(by_seed) == 1 and by_seed != {"well"}:
        (state,) = by_seed
    elif len(seeds) > 1:
        state = _state(found.ends, 0.0, kind.higher_is_better)
    else:
        state = "well"
    return Change(found.twin_value, found.difference, found.ends, state)


def _both(scores: pa.Table, baseline: pa.Table, arm: str, task: Task) -> Panel:
    """The panel of an arm's trials in the night and in the baseline's, as two arms."""
    parts = []
    for table, name in ((scores, arm), (baseline, _THEN + arm)):
        own = table.filter(pc.and_(pc.equal(table["arm"], arm), pc.equal(table["task"], task.name)))
        renamed = pa.array([name] * len(own), pa.string())
        parts.append(own.set_column(own.schema.get_field_index("arm"), "arm", renamed))
    return build_panel(pa.concat_tables(parts), task.kind)


def _state(ends: tuple[float, float] | None, margin: float, higher_is_better: bool) -> str:
    """Worse or better where the interval lies wholly on one side of zero, by more than the margin."""
    if ends is None:
        return "well"
    low, high = (-ends[1], -ends[0]) if higher_is_better else ends
    if low > margin:
        return "worse"
    return "better" if high < -margin else "well"
