"""From comparisons and costs to a verdict: axes, KPIs and roll-out stages, as codes and figures."""

from sharelm.verdict.decide import decide
from sharelm.verdict.stages import supported_variants

__all__ = ["decide", "supported_variants"]
