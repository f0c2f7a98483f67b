"""What a trained model costs to serve: measured latency, memory and money."""

from sharelm.cost.measurement import measure
from sharelm.cost.money import cost_of_seconds, cost_per_1m_tokens

__all__ = ["cost_of_seconds", "cost_per_1m_tokens", "measure"]
