"""The named schemes for a reader: source, numbers, and a drawing at depth 8."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from sharelm.sharing import SCHEMES, build_sharing
from sharelm.sharing.drawing import degrees, draw

DEPTH = 8
_EXAMPLE = {"blocks": 4, "prelude": 2, "core": 2, "coda": 2, "rank": 16, "first": 3, "last": 4}


def list_schemes() -> list[dict[str, Any]]:
    """Every scheme: what it is, the numbers it takes with those of the example, and the example."""
    found = []
    for name, constructor in SCHEMES.items():
        takes = [number for number in inspect.signature(constructor).parameters if number != "depth"]
        numbers = {number: _EXAMPLE[number] for number in takes}
        sharing = build_sharing(name, DEPTH, **numbers)
        found.append(
            {
                "scheme": name,
                "about": " ".join((constructor.__doc__ or "").split()),
                "numbers": numbers,
                "attention_schedule": list(sharing.attention),
                "feed_forward_schedule": list(sharing.feed_forward),
                "degrees": degrees(sharing),
                "drawing": draw(sharing),
            }
        )
    return found


def schemes_text(schemes: list[dict[str, Any]]) -> str:
    """The list with its drawings."""
    parts = [
        f"Each at depth {DEPTH}. ■ a depth reads this block; A for attention alone, F for feed-forward alone; "
        "Δ deltas; ↓ injection; + runs late."
    ]
    for scheme in schemes:
        numbers = "".join(f", {name} = {value}" for name, value in scheme["numbers"].items())
        parts.append(
            f'scheme = "{scheme["scheme"]}"{numbers}\n'
            f"  {scheme['about']}\n\n{textwrap.indent(scheme['drawing'], '    ')}"
        )
    return "\n\n".join(parts)
