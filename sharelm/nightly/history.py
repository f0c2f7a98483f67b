"""The rows of a night: every metric beside its accepted baseline and the nights since."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from statistics import median
from typing import Any

import pyarrow as pa

from sharelm.errors import InputError
from sharelm.nightly.alarm import standing
from sharelm.nightly.measures import Figure, figures
from sharelm.nightly.quality import change_of, quality_figures
from sharelm.study import Plan
from sharelm.tables.rows import BaselineRow, HistoryRow

PACKAGES = ("torch", "deepspeed", "ray", "numpy", "scipy", "pyarrow", "tokenizers", "safetensors")
GROSS = 2.5  # while the baseline is learnt: two nights in a row so many times worse than the nights before


@cache  # each is read from a file
def packages() -> Mapping[str, str]:
    """Versions of Python and of the packages that results depend on, in this process."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@dataclass(frozen=True)
class Night:
    """What a night committed, and where it ran. `wall_seconds` is None where the night went on from an earlier try."""

    night: str
    plan: Plan
    tables: dict[str, pa.Table]  # trials, scores and costs
    wall_seconds: float | None
    device: str
    code: str


class History:
    """The nights before this one, and the baselines that somebody accepted."""

    def __init__(self, rows: Sequence[HistoryRow], accepted: Sequence[BaselineRow]) -> None:
        self._rows: dict[str, list[HistoryRow]] = {}
        for row in sorted(rows, key=lambda row: row.night):
            self._rows.setdefault(row.key, []).append(row)
        self._accepted = sorted(accepted, key=lambda row: row.accepted_at)

    def before(self, figure: Figure, night: str) -> list[HistoryRow]:
        """The earlier nights of this metric since its baseline, oldest first."""
        rows = [row for row in self._rows.get(figure.key, []) if row.night < night]
        moved = [row.night for row in self._accepted if row.metric in (figure.key, figure.metric)]
        return [row for row in rows if not moved or row.night >= moved[-1]]


def night_rows(night: Night, history: History, scores_of: Callable[[str], pa.Table]) -> list[HistoryRow]:
    """The rows of the table `history` for this night; `scores_of` gives the scores of an earlier night."""
    found = [
        _row(night, figure, _performance(night, figure, history.before(figure, night.night)))
        for figure in figures(night.tables, night.wall_seconds)
    ]
    for figure in quality_figures(night.plan, night.tables["scores"]):
        compared = _quality(night, figure, history.before(figure, night.night), scores_of)
        found.append(_row(night, figure, compared))
    return found


@dataclass(frozen=True)
class _Compared:
    """What the nights before make of a figure."""

    baseline_night: str
    relative: bool
    state: str
    baseline_value: float | None = None
    change: float | None = None
    ends: tuple[float | None, float | None] = (None, None)
    since: str | None = None
    spread: float | None = None
    detectable: float | None = None


def _row(night: Night, figure: Figure, compared: _Compared) -> HistoryRow:
    low, high = compared.ends
    return HistoryRow(
        night=night.night,
        metric=figure.metric,
        subject=figure.subject,
        unit=figure.unit,
        worse=figure.worse,
        value=figure.value,
        baseline_night=compared.baseline_night,
        baseline_value=compared.baseline_value,
        relative=compared.relative,
        change=compared.change,
        change_low=low,
        change_high=high,
        state=compared.state,
        since=compared.since,
        spread=compared.spread,
        detectable=compared.detectable,
        device=night.device,
        code=night.code,
        packages_json=json.dumps(packages()),
    )


def _performance(night: Night, figure: Figure, before: Sequence[HistoryRow]) -> _Compared:
    """A speed, memory or cost beside the nights since its baseline; nights of another device do not compare."""
    first = before[0].night if before else night.night
    if before and before[0].device != night.device:
        return _Compared(first, True, "not_comparable")
    same = [row for row in before if row.device == night.device]
    nights, values = [*(row.night for row in same), night.night], [*(row.value for row in same), figure.value]
    found = standing(values, worse=figure.worse)
    if found.state == "learning":
        return _learning(first, figure, same)
    compared = partial(
        _Compared,
        first,
        True,
        found.state,
        baseline_value=found.baseline,
        spread=found.spread,
        detectable=found.detectable,
    )
    if found.since is None:
        return compared()
    return compared(change=found.shift, ends=(found.low, found.high), since=nights[found.since])


def _learning(first: str, figure: Figure, before: Sequence[HistoryRow]) -> _Compared:
    """While the spread is not known yet only a gross change that lasts is told, without an interval."""
    if len(before) >= 3:  # two nights that are usual, and one that was not
        level = median(row.value for row in before[:-1])
        latest = (before[-1].value / level, figure.value / level)
        if all((ratio if figure.worse == "higher" else 1 / ratio) >= GROSS for ratio in latest):
            return _Compared(first, True, "worse", level, figure.value / level - 1, since=before[-1].night)
    return _Compared(first, True, "learning")


def _quality(
    night: Night, figure: Figure, before: Sequence[HistoryRow], scores_of: Callable[[str], pa.Table]
) -> _Compared:
    """An arm's loss or accuracy beside the baseline night's, item by item."""
    if not before:
        return _Compared(night.night, False, "well", figure.value, 0.0)
    first = before[0].night
    try:
        change = change_of(night.plan.study, night.tables["scores"], scores_of(first), figure)
    except InputError:  # other documents
        change = None
    if change is None:
        return _Compared(first, False, "not_comparable")
    since = night.night
    for row in reversed(before):
        if row.state != change.state:
            break
        since = row.night
    told: dict[str, Any] = {} if change.state == "well" else {"since": since}
    ends = change.ends or (None, None)
    return _Compared(first, False, change.state, change.then, change.difference, ends, **told)
