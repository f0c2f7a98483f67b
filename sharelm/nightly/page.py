"""The trends page: what the latest night is, every metric through the nights, and what has changed. One HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sharelm.formats import NOTHING, si, significant
from sharelm.nightly.differences import Difference
from sharelm.report.drawing import Canvas, Chart
from sharelm.tables.rows import HistoryRow
from sharelm.words.nightly import change_of, metric_name, night_lines, night_summary, value_of

HERE = Path(__file__).parent
CSS = HERE.parent / "report" / "page.css"
MARKS = {  # symbol, words and style of a state; colour, marker: no state is told by colour alone
    "worse": ("▼", "worse", "bad", "#b34700", "X"),
    "not_comparable": ("?", "does not compare", "open", "#6a6a6a", "s"),
    "spike": ("!", "this night only", "open", "#7a3e9d", "^"),
    "better": ("▲", "better", "good", "#00705a", "D"),
    "learning": ("…", "learning", "open", "#6a6a6a", "o"),
    "well": ("✓", "as before", "good", "#0067a3", "o"),
}


def trends_page(study: str, rows: Sequence[HistoryRow], changed: Sequence[Difference]) -> str:
    """The page of the latest night among these rows, as HTML that needs nothing else."""
    night = max(row.night for row in rows)
    through: dict[str, list[HistoryRow]] = {}
    for row in sorted(rows, key=lambda row: row.night):
        through.setdefault(row.key, []).append(row)
    tonight = [row for row in rows if row.night == night]
    order = list(MARKS)
    metrics = [
        {
            "name": metric_name(row),
            "state": MARKS[row.state],
            "since": row.since,
            "value": value_of(row, row.value),
            "baseline": value_of(row, row.baseline_value),
            "baseline_night": row.baseline_night,
            "change": change_of(row, row.change),
            "interval": f"{change_of(row, row.change_low)} to {change_of(row, row.change_high)}"
            if row.change_low is not None and (row.change_low, row.change_high) != (0.0, 0.0)
            else NOTHING,
            "detectable": change_of(row, row.detectable),
            "chart": _chart(f"metric{number}", metric_name(row), through[row.key]),
        }
        for number, row in enumerate(sorted(tonight, key=lambda row: (order.index(row.state), row.key)))
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    found: str = environment.get_template("trends.html.j2").render(
        study=study,
        night=night,
        nights=len({row.night for row in rows}),
        summary=night_summary(study, night, tonight),
        lines=night_lines(tonight),
        metrics=metrics,
        changed=changed,
        device=tonight[0].device,
        css=Markup(CSS.read_text(encoding="utf-8")),
    )
    return found


def _chart(key: str, title: str, rows: Sequence[HistoryRow]) -> Chart:
    """One metric through its nights, with its baseline where there is one."""
    canvas = Canvas(150, left=56)
    axes = canvas.axes
    places = range(len(rows))
    axes.plot(places, [row.value for row in rows], color="#9aa3ad", linewidth=1)
    for place, row in zip(places, rows, strict=True):
        *_, colour, marker = MARKS[row.state]
        face = "white" if row.state in ("learning", "not_comparable") else colour
        axes.plot([place], [row.value], marker=marker, color=colour, markerfacecolor=face, markersize=6, zorder=3)
    latest = rows[-1]
    if latest.baseline_value is not None:
        axes.axhline(latest.baseline_value, color="#555", linestyle="dashed", linewidth=1)
    axes.set_xlim(-0.5, len(rows) - 0.5)
    ends = sorted({0, len(rows) - 1})
    axes.set_xticks(ends, [rows[end].night for end in ends])
    if len(ends) > 1:  # that neither date is cut
        first, last = axes.get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")
    values = [row.value for row in rows] + ([] if latest.baseline_value is None else [latest.baseline_value])
    room = max(0.1 * (max(values) - min(values)), 0.02 * max(map(abs, values)), 1e-9)
    axes.set_ylim(min(values) - room, max(values) + room)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: si(y, digits=3) if abs(y) >= 1000 else significant(y, 3)))
    caption = f"{latest.unit}; {latest.worse} is worse"
    described = "; ".join(f"{row.night}: {value_of(row, row.value)}, {MARKS[row.state][1]}" for row in rows)
    return Chart(title, caption, canvas.finish(key, title, described))
