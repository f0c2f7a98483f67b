"""Sentences about a night."""

from __future__ import annotations

from collections.abc import Sequence

from sharelm.formats import NOTHING, si, signed, significant
from sharelm.tables.rows import HistoryRow
from sharelm.words.say import name_of, say


def metric_name(row: HistoryRow) -> str:
    """`decoding time of cycle/chat`."""
    name = name_of(row.metric, "night_metric")
    return f"{name} of {row.subject}" if row.subject else name


def value_of(row: HistoryRow, value: float | None) -> str:
    """A figure of this metric with its unit."""
    if value is None:
        return NOTHING
    if row.unit == "bytes":
        return si(value, "B")
    return f"{significant(value, 4)} {row.unit}".replace(" share", "")


def change_of(row: HistoryRow, change: float | None) -> str:
    """A change of this metric: in per cent, or in its unit."""
    if change is None:
        return NOTHING
    if row.relative:
        return f"{signed(100 * change, 1)} %"
    return f"{signed(change + 0.0, 4)} {row.unit}".replace(" share", "")


def night_lines(rows: Sequence[HistoryRow]) -> list[str]:
    """A sentence for every metric that is not as it was, what is worse first."""
    order = ("worse", "not_comparable", "spike", "better")
    told = sorted((row for row in rows if row.state in order), key=lambda row: (order.index(row.state), row.key))
    return [_line(row) for row in told]


def _line(row: HistoryRow) -> str:
    gross = row.state == "worse" and row.relative and row.change_low is None
    figures = {
        "name": metric_name(row),
        "since": row.since,
        "value": value_of(row, row.value),
        "baseline": value_of(row, row.baseline_value),
        "baseline_night": row.baseline_night,
        "change": change_of(row, row.change),
        "low": change_of(row, row.change_low),
        "high": change_of(row, row.change_high),
    }
    text = say("night", "gross" if gross else row.state, figures)
    return text[:1].upper() + text[1:]


def night_summary(study: str, night: str, rows: Sequence[HistoryRow]) -> str:
    """One sentence about the whole night."""
    worse = sum(row.state == "worse" for row in rows)
    figures = {"night": night, "study": study, "count": worse, "metrics": len(rows)}
    return say("night_summary", "worse" if worse else "well", figures)


def could_not(study: str, night: str, reason: str) -> str:
    """That a night could not run, and why."""
    return say("night_summary", "could_not", {"study": study, "night": night, "reason": reason})


def change_line(what: str, then: str, now: str) -> str:
    """Something that was otherwise on an earlier night."""
    return say("night_summary", "changed", {"what": what, "then": then, "now": now})
