"""The report's charts, from plain rows; none knows a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from sharelm.formats import plain, si, signed, significant
from sharelm.report.drawing import Canvas, Chart, printable, short, spread

VARIANT, TWIN, PARAMETERS_TWIN = "#b34700", "#0067a3", "#00705a"
COMPUTE_TWIN, MEMORY_TWIN, TIME_TWIN = "#7a3e9d", "#6a6a6a", "#8a6d00"
LineStyle = str | tuple[int, tuple[int, ...]]
OUTCOME_MARKS = {  # colour and shape: neither alone carries the outcome
    "better": ("#00705a", "D"),
    "not_worse": ("#0067a3", "o"),
    "worse": ("#b34700", "X"),
    "not_shown": ("#6a6a6a", "s"),
}
_ROW = 34.0  # points: a line of text and a mark below it
_BELOW = 32.0  # points from an axis down to its label's baseline


@dataclass(frozen=True)
class Interval:
    """One row of a forest plot: a difference with its interval; None where it is unknown."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    outcome: str | None


@dataclass(frozen=True)
class Curve:
    """A line with its band; `x` tokens seen, the others nats per token."""

    label: str
    colour: str
    style: LineStyle
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Point:
    """An arm by what it stores and how well it predicts."""

    label: str
    stored_bytes: float
    loss: float
    is_variant: bool


@dataclass(frozen=True)
class Bar:
    """A row of stacked parts, each at least zero."""

    label: str
    parts: Sequence[float]


def _rows_axes(rows: int, top: float = 4, bottom: float = 42) -> Canvas:
    canvas = Canvas(rows * _ROW + top + bottom, left=4, right=4, top=top, bottom=bottom)
    axes = canvas.axes
    axes.set_ylim(rows, 0)
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="x", length=3)
    return canvas


def _ticks(axes: Axes, shown: Callable[[float], str], room: float = 0.08) -> None:
    """A few ticks with labels, zero among them, no other so near an end that its label is cut."""
    low, high = axes.get_xlim()
    inset = (high - low) * room
    ticks = [0.0 if abs(x) < inset * 1e-6 else x for x in MaxNLocator(4).tick_values(low, high)]
    places = [x for x in ticks if low + inset <= x <= high - inset or (x == 0 and low <= 0 <= high)]
    axes.set_xticks(places, [shown(x) for x in places])
    for tick, x in zip(axes.xaxis.get_major_ticks(), places, strict=True):
        if x == low:
            tick.label1.set_horizontalalignment("left")


def _row_text(axes: Axes, row: int, left: str, right: str, colour: str = "#222") -> None:
    transform = axes.get_yaxis_transform()
    axes.text(0, row + 0.36, printable(left), transform=transform, ha="left", va="baseline")
    axes.text(1, row + 0.36, printable(right), transform=transform, ha="right", va="baseline", color=colour)


def forest(
    key: str,
    title: str,
    caption: str,
    rows: Sequence[Interval],
    unit: str,
    margin: float | None,
    higher_is_better: bool,
) -> Chart:
    """Differences, variant less twin, with intervals; the side that the margin allows is shaded."""
    canvas = _rows_axes(len(rows), top=20)
    axes = canvas.axes
    known = [x for row in rows for x in (row.value, row.low, row.high) if x is not None]
    edge = None if margin is None else (-margin if higher_is_better else margin)
    span = [*known, 0.0, *([] if edge is None else [edge * 1.25, -edge * 0.5])]
    pad = (max(span) - min(span)) * 0.06 or 1e-3
    low, high = min(span) - pad, max(span) + pad
    axes.set_xlim(low, high)
    if edge is not None:
        start, end = (edge, high) if higher_is_better else (low, edge)
        axes.add_patch(Rectangle((start, 0), end - start, len(rows), facecolor="#e4eef5", edgecolor="none", zorder=0))
        align = "right" if (edge - low) / (high - low) > 0.5 else "left"
        name = f"margin {'+' if edge > 0 else '−'}{plain(abs(edge))}"
        axes.text(edge, -0.12, name, color="#0067a3", ha=align, va="baseline")
    for i, row in enumerate(rows):
        colour, marker = OUTCOME_MARKS.get(row.outcome or "", ("#333", "o"))
        axes.vlines(0, i + 0.46, i + 0.98, colors="#333", linewidth=1)
        if edge is not None:
            axes.vlines(edge, i + 0.46, i + 0.98, colors="#0067a3", linestyles="dashed", linewidth=1.2)
        word = f" {row.outcome.replace('_', ' ')}" if row.outcome else ""
        _row_text(axes, i, short(row.label, 30), f"{signed(row.value)}{word}", colour)
        if row.low is not None and row.high is not None:
            axes.hlines(i + 0.72, row.low, row.high, colors=colour, linewidth=2)
        if row.value is not None:
            face = "white" if row.outcome == "not_shown" else colour
            axes.plot([row.value], [i + 0.72], marker=marker, color=colour, markerfacecolor=face, markersize=6)
    _ticks(axes, plain)
    sides = ("twin better", "variant better") if higher_is_better else ("variant better", "twin better")
    for x, text, align in ((0, f"← {sides[0]}", "left"), (0.5, unit, "center"), (1, f"{sides[1]} →", "right")):
        axes.annotate(
            text, (x, 0), (0, -_BELOW), xycoords="axes fraction", textcoords="offset points", ha=align, va="baseline"
        )
    description = "; ".join(
        f"{row.label}: {signed(row.value)}, from {signed(row.low)} to {signed(row.high)}"
        + (f", {row.outcome.replace('_', ' ')}" if row.outcome else "")
        for row in rows
    )
    return Chart(title, caption, canvas.finish(key, title, description))


def _gutter(canvas: Canvas, ends: Sequence[tuple[float, float]], labels: Sequence[str], colours: Sequence[str]) -> None:
    """Names right of the axes, joined to their points (axes fractions) by thin lines, never over each other."""
    axes = canvas.axes
    places = spread([y for _, y in ends], 13 / canvas.inner_height, 0.0, 1.0)
    for (x, y), place, label, colour in zip(ends, places, labels, colours, strict=True):
        axes.plot([x, 1.03], [y, place], transform=axes.transAxes, color="#bbb", linewidth=0.7, clip_on=False, zorder=1)
        axes.text(1.045, place, short(label), transform=axes.transAxes, va="center", color=colour)


def curves(key: str, title: str, caption: str, lines: Sequence[Curve]) -> Chart:
    """Loss against tokens seen, on a logarithmic axis, each line named at its end."""
    canvas = Canvas(220, left=48, right=122)
    axes = canvas.axes
    axes.set_xscale("log")
    for line in lines:
        if len(line.x) > 1:
            axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.18, linewidth=0)
        marker = "o" if len(line.x) == 1 else ""
        axes.plot(line.x, line.mean, color=line.colour, linestyle=line.style, linewidth=1.7, marker=marker)
    axes.xaxis.set_major_locator(LogLocator(numticks=4))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: si(x, digits=2)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("training tokens")
    axes.set_ylabel("nats per token")
    axes.autoscale_view()  # before places are asked for
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [tuple(to_axes.transform((line.x[-1], line.mean[-1]))) for line in lines]
    _gutter(canvas, ends, [line.label for line in lines], [line.colour for line in lines])
    description = "; ".join(f"{line.label} ends at {significant(line.mean[-1], 4)}" for line in lines)
    return Chart(title, caption, canvas.finish(key, title, description))


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats on both stored bytes and loss, by rising bytes."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.stored_bytes, p.loss)):
        if not front or point.loss < front[-1].loss:
            front.append(point)
    return front


def storage(key: str, title: str, caption: str, points: Sequence[Point]) -> Chart:
    """Stored bytes against loss; the front is joined."""
    canvas = Canvas(max(220.0, 13.0 * len(points) + 60), left=48, right=122)
    axes = canvas.axes
    sizes = [point.stored_bytes for point in points]
    axes.set_xlim(0, max(sizes) * 1.08)
    front = pareto_front(points)
    axes.plot([p.stored_bytes for p in front], [p.loss for p in front], color="#999", linewidth=5, alpha=0.35, zorder=1)
    for point in points:
        axes.plot(
            [point.stored_bytes],
            [point.loss],
            marker="o" if point.is_variant else "s",
            color=VARIANT if point.is_variant else TWIN,
            markerfacecolor=(VARIANT if point.is_variant else TWIN) if point in front else "white",
            markersize=7,
            zorder=3,
        )
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: si(x, "B", digits=2)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(y=0.1)
    axes.set_xlabel("stored weights")
    axes.set_ylabel("validation loss, nats")
    axes.autoscale_view(scalex=False)
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [tuple(to_axes.transform((p.stored_bytes, p.loss))) for p in points]
    _gutter(canvas, ends, [p.label for p in points], [VARIANT if p.is_variant else TWIN for p in points])
    description = "; ".join(f"{p.label}: {si(p.stored_bytes, 'B')}, {significant(p.loss, 4)} nats" for p in points)
    return Chart(title, caption, canvas.finish(key, title, description))


def bars(
    key: str,
    title: str,
    caption: str,
    rows: Sequence[Bar],
    parts: Sequence[tuple[str, str, str]],
    shown: Callable[[float], str],
    xlabel: str,
) -> Chart:
    """Stacked rows, each with its total as `shown`; `parts` is (name, colour, hatch) in the order of every row's."""
    canvas = _rows_axes(len(rows), top=24 if len(parts) > 1 else 4)
    axes = canvas.axes
    if len(parts) > 1:
        handles = [Rectangle((0, 0), 1, 1, facecolor=c, hatch=h, edgecolor="white", label=n) for n, c, h in parts]
        axes.legend(
            handles=handles,
            ncols=len(parts),
            loc="lower left",
            bbox_to_anchor=(0, 1),
            frameon=False,
            borderaxespad=0,
            handlelength=1.2,
            handletextpad=0.4,
            columnspacing=1.2,
        )
    longest = max((sum(row.parts) for row in rows), default=0.0) or 1.0
    axes.set_xlim(0, longest * 1.02)
    for i, row in enumerate(rows):
        _row_text(axes, i, short(row.label, 30), shown(sum(row.parts)))
        start = 0.0
        for (_, colour, hatch), size in zip(parts, row.parts, strict=True):
            axes.barh(
                i + 0.7, size, left=start, height=0.38, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5
            )
            start += size
    _ticks(axes, shown, 0.1)
    axes.set_xlabel(xlabel)
    description = "; ".join(
        f"{row.label}: " + ", ".join(f"{p[0]} {shown(v)}" for p, v in zip(parts, row.parts, strict=True))
        for row in rows
    )
    return Chart(title, caption, canvas.finish(key, title, description))
