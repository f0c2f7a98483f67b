"""Which charts the page has: from the summary's figures to drawn charts, one comparison never in another's chart."""

from __future__ import annotations

from dataclasses import dataclass

from sharelm.formats import brief, si, significant
from sharelm.metrics import METRICS
from sharelm.report.caveats import axis_words
from sharelm.report.charts import (
    COMPUTE_TWIN,
    MEMORY_TWIN,
    PARAMETERS_TWIN,
    TIME_TWIN,
    TWIN,
    VARIANT,
    Bar,
    Curve,
    Interval,
    LineStyle,
    Point,
    bars,
    curves,
    forest,
    pareto_front,
    storage,
)
from sharelm.report.drawing import Chart
from sharelm.report.summary import MeanCost, Summary
from sharelm.tables.rows import ComparisonRow

ALL = "all"
_TWIN_LINES: dict[str, tuple[str, LineStyle]] = {
    "depth": (TWIN, "--"),
    "parameters": (PARAMETERS_TWIN, ":"),
    "compute": (COMPUTE_TWIN, "-."),
    "memory": (MEMORY_TWIN, (0, (5, 1))),
    "time": (TIME_TWIN, (0, (1, 3))),
}
_MEMORY = (("weights", VARIANT, ""), ("KV cache", TWIN, "///"), ("rest", "#b5b5b5", ""))


@dataclass(frozen=True)
class Gallery:
    """The drawn charts, by section of the page."""

    losses: dict[str, Chart]  # by axis
    tasks: dict[str, list[Chart]]  # by axis
    storage: Chart | None
    curves: list[Chart]
    memory: list[Chart]
    money: list[Chart]
    distances: list[Chart]


def _forest(key: str, title: str, rows: list[ComparisonRow]) -> Chart:
    metric = METRICS[rows[0].metric]
    margins = {row.margin for row in rows}
    margin = margins.pop() if len(margins) == 1 else None
    caption = f"Variant less twin, {metric.title}, with its interval."
    if margin is not None:
        caption += " Shaded: no worse than the margin fixed beforehand."
    intervals = [
        Interval(row.variant, row.difference, row.interval_low, row.interval_high, row.outcome) for row in rows
    ]
    return forest(key, title, caption, intervals, metric.unit, margin, metric.higher_is_better)


def _task_charts(axis: str, rows: list[ComparisonRow]) -> list[Chart]:
    """One chart a task and domain; loss by domain is left to bits per byte, which compares across tokenizers."""
    groups: dict[tuple[str, str, str], list[ComparisonRow]] = {}
    for row in rows:
        if not METRICS[row.metric].decides:
            groups.setdefault((row.task, row.domain, row.metric), []).append(row)
    charts = []
    for number, ((task, domain, metric), group) in enumerate(groups.items()):
        where = task if domain == ALL else f"{task}, {domain}"
        title = f"{where}: {METRICS[metric].title} at {axis_words(axis)}"
        charts.append(_forest(f"task-{axis}-{number}", title, group))
    return charts


def _curves(summary: Summary) -> list[Chart]:
    charts = []
    for number, variant in enumerate(f.arm.name for f in summary.arms if f.arm.role == "variant"):
        wanted: list[tuple[str, str, LineStyle]] = [(variant, VARIANT, "-")]
        for pair in (p for p in summary.pairs if p.variant == variant):
            if pair.twin not in [name for name, _, _ in wanted]:
                wanted.append((pair.twin, *_TWIN_LINES[pair.axis]))
        lines = []
        for name, colour, style in wanted:
            if name in summary.curves:
                curve = summary.curves[name]
                lines.append(Curve(name, colour, style, curve.tokens, curve.mean, curve.low, curve.high))
        if lines:
            caption = "Training loss, averaged in bins of tokens; the band spans the lowest and the highest seed."
            charts.append(curves(f"curve-{number}", f"{variant} and its twins", caption, lines))
    return charts


def _cost_charts(summary: Summary) -> tuple[list[Chart], list[Chart]]:
    groups: dict[tuple[str, str, str], list[tuple[str, MeanCost]]] = {}
    for figures in summary.arms:
        for row in figures.costs:
            groups.setdefault((row.workload, row.device, row.precision), []).append((figures.arm.name, row))
    memory, price = [], []
    for number, ((workload, device, precision), rows) in enumerate(groups.items()):
        where = f"{device}, {precision}"
        split = [
            Bar(name, [max(0.0, size or 0.0) for size in (row.weights_bytes, row.kv_bytes, row.rest_bytes)])
            for name, row in rows
        ]
        memory.append(
            bars(
                f"memory-{number}",
                f"Memory while serving {workload}",
                f"Peak bytes on {where}; sharing weights does not share the cache.",
                split,
                _MEMORY,
                lambda value: si(value, "B"),
                "device memory",
            )
        )
        priced = [Bar(name, [cost]) for name, row in rows if (cost := row.cost_per_1m_tokens) is not None]
        if priced:
            currency = rows[0][1].currency
            price.append(
                bars(
                    f"money-{number}",
                    f"Cost of {workload}",
                    f"{currency} for a million generated tokens on {where}.",
                    priced,
                    [("cost", TWIN, "")],
                    brief,
                    f"{currency} per million generated tokens",
                )
            )
    return memory, price


def _storage(summary: Summary) -> Chart | None:
    points = [
        Point(f.arm.name, f.stored_bytes, f.loss, f.arm.role == "variant")
        for f in summary.arms
        if f.stored_bytes and f.loss is not None
    ]
    if not points:
        return None
    on_front = ", ".join(point.label for point in pareto_front(points))
    caption = (
        "Down and left is better. Circles: variants; squares: independent models. Filled and joined: no other arm is "
        f"both smaller and better ({on_front}). This front is about storage, not about speed."
    )
    return storage("storage", "Stored bytes against held-out loss", caption, points)


def _distances(summary: Summary) -> list[Chart]:
    """One chart a softly tied arm and kind: each depth's distance, the mean over its matrices and seeds."""
    groups: dict[tuple[str, str], dict[tuple[int, int], list[float]]] = {}
    for row in summary.distances:
        depths = groups.setdefault((row.arm, row.kind), {})
        depths.setdefault((row.block, row.depth), []).append(row.distance)
    return [
        bars(
            f"distance-{number}",
            f"{arm}: how far apart {kind.replace('_', '-')} depths stay",
            "Distance from the mean of the depths that the schedule puts together, over the size of the matrix: 0 is "
            "shared, about 0.7 two independent draws.",
            [Bar(f"block {block}, depth {depth}", [sum(v) / len(v)]) for (block, depth), v in sorted(depths.items())],
            [("distance", VARIANT, "")],
            significant,
            "relative distance",
        )
        for number, ((arm, kind), depths) in enumerate(groups.items())
    ]


def main_rows(rows: list[ComparisonRow]) -> list[ComparisonRow]:
    """The comparisons that the verdict rests on first."""
    return [row for row in rows if METRICS[row.metric].decides and row.domain == ALL]


def draw(summary: Summary) -> Gallery:
    """Every chart of the page."""
    losses, tasks = {}, {}
    for axis in dict.fromkeys(row.axis for row in summary.comparisons):
        rows = [row for row in summary.comparisons if row.axis == axis]
        main = main_rows(rows)
        if main:
            losses[axis] = _forest(f"loss-{axis}", f"Loss at {axis_words(axis)}", main)
        tasks[axis] = _task_charts(axis, [row for row in rows if row not in main])
    memory, price = _cost_charts(summary)
    return Gallery(losses, tasks, _storage(summary), _curves(summary), memory, price, _distances(summary))
