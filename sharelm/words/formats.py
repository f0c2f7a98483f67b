"""How a figure is written in a sentence; the formats that a slot of the catalogue may ask for by name."""

from __future__ import annotations

from collections.abc import Callable

from sharelm import formats as written


def number(value: float) -> str:
    """`0.6702`, `3`, `204,800`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent_beside(ratio: float, most: str) -> str:
    """`88.5`: three digits, or as many as it takes not to hide that a ratio is beyond the most it may be."""
    limit = float(most)
    digits = next(n for n in range(3, 18) if (float(f"{ratio:.{n}g}") > limit) == (ratio > limit))
    return f"{float(f'{100 * ratio:.{digits}g}'):,.12g}"


# Every format by name; what follows the name in a slot are its arguments, as text.
FORMATS: dict[str, Callable[..., str]] = {
    "count": lambda value: f"{value:,.0f}",
    "number": number,
    "plain": lambda value: f"{value:g}",
    "signed": lambda value: f"{value:+.3f}",
    "percent": lambda value: f"{100 * value:.4g}",
    "brief_percent": lambda value: f"{100 * value:.3g}",
    "limit_percent": lambda value: number(100 * value),
    "whole_percent": lambda value: f"{100 * value:.0f}",
    "tenths_percent": lambda value: f"{100 * value:.1f}",
    "signed_tenths_percent": lambda value: f"{100 * value:+.1f}",
    "percent_beside": percent_beside,
    "thousandths": lambda value: f"{value:.3f}",
    "brief": written.brief,
    "duration": written.duration,
    "share": lambda value, digits="2": written.percent(value, int(digits)),
    "si": written.si,
    "significant": lambda value, digits="3": written.significant(value, int(digits)),
    "typeset_signed": written.signed,
}
