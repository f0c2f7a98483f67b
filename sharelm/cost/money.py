"""Money, from a price per hour and what was measured."""

SECONDS_PER_HOUR = 3600


def cost_of_seconds(seconds: float, workers: int, price_per_hour: float) -> float:
    """Price of this many seconds on each of `workers`, in the currency of the hour's price."""
    return seconds / SECONDS_PER_HOUR * workers * price_per_hour


def cost_per_1m_tokens(tokens_per_second: float, price_per_hour: float) -> float:
    """Price of a million tokens made one after another at this rate on one worker."""
    return cost_of_seconds(1e6 / tokens_per_second, 1, price_per_hour)
