"""What the difference between two arms is, how sure it is, and how it stands to a margin."""

from sharelm.statistics.compare import compare
from sharelm.statistics.worth import worth

__all__ = ["compare", "worth"]
