"""A row of the `verdicts` table as a value: what was found, by a code, with the figures its sentence is made of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from sharelm.tables.schemas import TABLES

Said = dict[str, Any]  # what can be put into words: `kind`, `code` and `figures`, which may hold others of its kind


def said(kind: str, code: str, **figures: Any) -> Said:
    """Something to say inside another finding: a note, one of several measures, what a stage lacks."""
    return {"kind": kind, "code": code, "figures": figures}


@dataclass(frozen=True)
class Finding:
    """One finding about a variant; `code` is empty in rows that were written before schema version 4."""

    variant: str
    kind: str
    name: str
    outcome: str
    code: str
    measure: str | None
    value: float | None
    threshold: float | None
    figures: Mapping[str, Any]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Finding:
        """The finding in a row of the table."""
        plain = {name: row[name] for name in ("variant", "kind", "name", "outcome", "measure", "value", "threshold")}
        return cls(**plain, code=row["code"] or "", figures=json.loads(row["figures_json"] or "{}"))

    @property
    def row(self) -> dict[str, Any]:
        """This finding as a row of the table."""
        row = asdict(self)
        figures = _finite(row.pop("figures"))
        return row | {"figures_json": json.dumps(figures, ensure_ascii=False, allow_nan=False, sort_keys=True)}

    @property
    def said(self) -> Said:
        """This finding as part of another one."""
        return said(self.kind, self.code, **self.figures)


def findings_table(findings: Iterable[Finding]) -> pa.Table:
    """The `verdicts` table of these findings."""
    return pa.Table.from_pylist([finding.row for finding in findings], schema=TABLES["verdicts"])


def _finite(value: Any) -> Any:
    """Plain JSON values: numbers that are not finite become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
