"""Numbers of the report: sensible digits, and a dash where nothing was measured."""

from __future__ import annotations

import math

from sharelm.formats import NOTHING, duration, si, significant

__all__ = [
    "NOTHING",
    "brief",
    "count",
    "decimals",
    "duration",
    "money",
    "percent",
    "plain",
    "si",
    "signed",
    "significant",
]


def plain(value: float | None) -> str:
    """`value` as someone would write it in a study: 0.05, 2, 204,800; at most six significant digits."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = significant(value, 6)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def brief(value: float | None) -> str:
    """`value` to three significant digits without idle zeros: 1, 0.0653, 12,200."""
    return NOTHING if value is None or not math.isfinite(value) else plain(float(f"{value:.3g}"))


def decimals(value: float | None, places: int = 3) -> str:
    """`value` with this many decimals: for columns whose figures are compared."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:,.{places}f}".replace("-", "−")


def signed(value: float | None, places: int = 3) -> str:
    """A difference: always with its sign, with this many decimals."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:+.{places}f}".replace("-", "−")


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as a percentage."""
    return NOTHING if value is None or not math.isfinite(value) else f"{significant(value * 100, digits)} %"


def count(value: float | None) -> str:
    """A whole number with thousands separated."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:,.0f}"


def money(value: float | None, currency: str | None) -> str:
    """An amount with its currency: "0.0123 USD"."""
    return NOTHING if value is None or not math.isfinite(value) else f"{significant(value)} {currency or ''}".rstrip()
