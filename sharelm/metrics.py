"""Every metric that comparisons are made of: how it comes from rows of `scores`, and what it is held to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MetricKind:
    """A ratio of sums over rows of `scores`; a number of `size` is the weight of a document."""

    name: str
    title: str  # how a reader calls it
    unit: str  # on an axis
    higher_is_better: bool
    numerator: Literal["nll_nats", "correct"]
    size: Literal["tokens", "bytes", "items"]  # a column that every trial has the same sums of, or the number of rows
    divisor: float = 1.0  # of the numerator, into the unit
    margin: str | None = None  # the field of [kpi.accuracy] that its difference over all domains is held to
    decides: bool = False  # the verdict rests on it first; its intervals are corrected for several comparisons


METRICS = {
    metric.name: metric
    for metric in (
        MetricKind(
            "loss_nats_per_token",
            "held-out loss",
            "nats",
            higher_is_better=False,
            numerator="nll_nats",
            size="tokens",
            margin="loss_margin_nats",
            decides=True,
        ),
        MetricKind(
            "bits_per_byte",
            "bits per byte",
            "bits",
            higher_is_better=False,
            numerator="nll_nats",
            size="bytes",
            divisor=math.log(2),
        ),
        MetricKind(
            "accuracy",
            "accuracy",
            "share",
            higher_is_better=True,
            numerator="correct",
            size="items",
            margin="task_margin",
        ),
    )
}
(DECIDING,) = (metric for metric in METRICS.values() if metric.decides)
