"""What can be put into words: a code with its figures; and figures as a table keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypedDict


class Message(TypedDict):
    """Something for `sharelm.words`: a place in the catalogue, a code there, and figures, which may hold messages."""

    kind: str
    code: str
    figures: dict[str, Any]


def message(kind: str, code: str, /, **figures: Any) -> Message:
    """A message inside a finding: a note, one of several measures, what a stage lacks."""
    return {"kind": kind, "code": code, "figures": figures}


def as_json(figures: Mapping[str, Any]) -> str:
    """Figures as the text of a column `figures_json`."""
    return json.dumps(finite(figures), ensure_ascii=False, allow_nan=False, sort_keys=True)


def from_json(text: str | None) -> dict[str, Any]:
    """The figures in a column `figures_json`; none in rows that were written before there was one."""
    figures: dict[str, Any] = json.loads(text or "{}")
    return figures


def finite(value: Any) -> Any:
    """The same tree with null for numbers that are not finite, which JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value
