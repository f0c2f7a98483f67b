"""What a night measures besides quality: one figure for each arm and request shape, and which way is worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

Worse = Literal["higher", "lower"]
CURRENCY = "currency"  # a unit that each row names


@dataclass(frozen=True)
class Measure:
    """A column of a table, as a metric of every night: the median over an arm's seeds."""

    name: str
    unit: str
    worse: Worse
    table: Literal["trials", "costs"]

    @property
    def subject(self) -> tuple[str, ...]:
        """The columns that say what was measured."""
        return ("arm",) if self.table == "trials" else ("arm", "workload")


MEASURES = (
    Measure("tokens_per_second", "tokens/s", "lower", "trials"),
    Measure("training_cost", CURRENCY, "higher", "trials"),
    Measure("prefill_ms_p50", "ms", "higher", "costs"),
    Measure("decode_ms_p50", "ms", "higher", "costs"),
    Measure("peak_bytes", "bytes", "higher", "costs"),
    Measure("cost_per_1m_tokens", CURRENCY, "higher", "costs"),
)
WALL = "wall_seconds"


@dataclass(frozen=True)
class Figure:
    """One metric of one night."""

    metric: str
    subject: str  # an arm, or arm/workload, or arm/task; empty for the whole night
    unit: str
    worse: Worse
    value: float

    @property
    def key(self) -> str:
        """What names the metric through all nights: `metric:subject`, or `metric` alone."""
        return f"{self.metric}:{self.subject}" if self.subject else self.metric


def figures(tables: Mapping[str, pa.Table], wall_seconds: float | None) -> list[Figure]:
    """The figures of a night's tables; what no seed measured, or what costs nothing, is left out.

    `wall_seconds` is None where the night went on from an earlier try, whose time it does not count.
    """
    found = [figure for measure in MEASURES for figure in _medians(measure, tables[measure.table])]
    return found if wall_seconds is None else [*found, Figure(WALL, "", "s", "higher", wall_seconds)]


def _medians(measure: Measure, table: pa.Table) -> Iterator[Figure]:
    values: dict[str, list[float]] = {}
    unit = measure.unit
    for row in table.select([*measure.subject, measure.name, "currency"]).to_pylist():
        unit = row["currency"] if measure.unit == CURRENCY else unit
        if row[measure.name]:  # where the price is zero so is every cost, and no change of it can be told
            values.setdefault("/".join(row[name] for name in measure.subject), []).append(row[measure.name])
    for subject, those in values.items():
        yield Figure(measure.name, subject, unit, measure.worse, float(np.median(those)))
