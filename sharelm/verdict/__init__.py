"""From comparisons and costs to a verdict: axes, KPIs, roll-out stages, and five lines for a manager."""

from sharelm.verdict.decide import decide
from sharelm.verdict.headline import headline
from sharelm.verdict.stages import supported_variants

__all__ = ["decide", "headline", "supported_variants"]
