"""What commands print: aligned columns for people, JSON for scripts."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

SHOWN_ROWS, SHOWN_CHARACTERS = 20, 40


def print_json(value: Any) -> None:
    """One JSON document on stdout; a float that is not finite, which JSON lacks, as null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def columns(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """The rows under their header, aligned: numbers to the right, text to the left. No line is cut or wrapped."""
    texts = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in [header, *texts]) for i in range(len(header))]
    right = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(header))]
    lines = []
    for row in [header, *texts]:
        cells = [text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def first_rows(header: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """The first rows with long values cut, for a look at a table."""
    shown = [[_cut(row[name]) for name in header] for row in rows[:SHOWN_ROWS]]
    more = len(rows) - len(shown)
    rest = f"\n... {more:,} more rows: --json, --csv or --files" if more else ""
    return columns(shown, header) + rest


def _cut(value: object) -> object:
    text = json.dumps(value) if isinstance(value, list) else value
    return f"{text[: SHOWN_CHARACTERS - 3]}..." if isinstance(text, str) and len(text) > SHOWN_CHARACTERS else text


def print_csv(header: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """All rows as CSV on stdout; a list as JSON, null as an empty field."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        values = (row[name] for name in header)
        writer.writerow([json.dumps(value) if isinstance(value, list) else value for value in values])
