"""How numbers are written for people, the same at the terminal, in what the driver prints and in the report.

Bytes are decimal: `si(1_234_567, "B")` is "1.23 MB". Durations are words: "3 min 20 s".
"""

from __future__ import annotations

import math

NOTHING = "–"  # where nothing was measured
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def significant(value: float | None, digits: int = 3) -> str:
    """`value` to this many significant digits, never in scientific notation between 1e-6 and 1e15."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -6 or size >= 15:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    rounded = round(value, digits - 1 - size)
    size = math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(0, digits - 1 - size)}f}".replace("-", "−")


def si(value: float | None, unit: str = "", digits: int = 3) -> str:
    """`value` with a decimal SI prefix (k, M, G, T) and its unit: 1234567, "B" gives "1.23 MB"."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for size, prefix in _PREFIXES:
        if abs(float(f"{value:.{digits - 1}e}")) >= size:
            return f"{significant(value / size, digits)} {prefix}{unit}"
    return f"{significant(value, digits)} {unit}".rstrip()


def duration(seconds: float | None) -> str:
    """Seconds as a reader says them: "41.2 s", "3 min 20 s", "2 h 05 min"."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 59.95:
        return f"{significant(seconds, 2 if seconds < 10 else 3).removesuffix('.0')} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


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
