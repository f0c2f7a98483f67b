"""What a running study tells Prometheus, through Ray: every metric with its unit, labels and meaning.

Ray exports them at each node's metrics port under `ray_` and adds its own labels (`NodeAddress`, `WorkerId`, ...).
`jobs.dashboard` draws every one of them. A process reports only while it is connected to Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import ray
from ray.util import metrics as of_ray

from sharelm.store.observer import observe

STATES = ("waiting", "running", "done", "failed")
# Powers of about 2.2: from a file of a local disk to a large object over a slow network.
_LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)


@dataclass(frozen=True)
class Metric:
    """A metric as Ray is asked for it; its name ends with its unit, a counter's with `_total`."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    unit: str
    labels: tuple[str, ...]
    help: str

    @property
    def exported(self) -> str:
        """Its name at Ray's metrics port; a histogram's series have `_bucket`, `_count` or `_sum` behind it."""
        return f"ray_{self.name}"


STEPS = Metric(
    "sharelm_steps",
    "gauge",
    "steps",
    ("study", "kind", "state"),
    "Steps of a study that runs, by kind (trial, score, cost, ...) and state: waiting, running, done, failed.",
)
TOKENS_PER_SECOND = Metric(
    "sharelm_training_tokens_per_second",
    "gauge",
    "tokens per second",
    ("study", "trial"),
    "Tokens that a trial or proxy learns from in a second, all its workers together; 0 after its end.",
)
MONEY_SPENT = Metric(
    "sharelm_money_spent_total",
    "counter",
    "the label `currency`",
    ("study", "currency"),
    "Busy seconds of every device that trains, evaluates or measures, at the study's price; idle time is not counted.",
)
STORE_SECONDS = Metric(
    "sharelm_store_operation_seconds",
    "histogram",
    "seconds",
    ("operation",),
    "Time that an operation of the store took (get, put, list, ...), its retries included.",
)
STORE_REQUESTS = Metric(
    "sharelm_store_requests_total",
    "counter",
    "requests",
    ("outcome",),
    "Requests to the store: answered, failed (given up, the step fails) and retried (sent again by the S3 client).",
)
METRICS = {each.name: each for each in (STEPS, TOKENS_PER_SECOND, MONEY_SPENT, STORE_SECONDS, STORE_REQUESTS)}


@cache
def _made(name: str) -> Any:
    metric = METRICS[name]
    if metric.kind == "histogram":
        return of_ray.Histogram(name, metric.help, list(_LATENCIES_S), metric.labels)
    made = of_ray.Gauge if metric.kind == "gauge" else of_ray.Counter
    return made(name, metric.help, metric.labels)


def report_steps(study: str, steps: Mapping[tuple[str, str], int]) -> None:
    """Set how many steps of each kind are in each state; `steps` counts (kind, state)."""
    for kind in {kind for kind, _ in steps}:
        for state in STATES:
            _made(STEPS.name).set(steps.get((kind, state), 0), {"study": study, "kind": kind, "state": state})


def report_speed(study: str, trial: str, tokens_per_second: float) -> None:
    """Set the speed of a trial that trains."""
    _made(TOKENS_PER_SECOND.name).set(tokens_per_second, {"study": study, "trial": trial})


def report_spending(study: str, currency: str, money: float) -> None:
    """Add to the money that was spent; Ray refuses a counter's 0, so that a study without a price has no series."""
    if money > 0:
        _made(MONEY_SPENT.name).inc(money, {"study": study, "currency": currency})


class _StoreReporter:
    """The store's observer: two values an operation, each a call of microseconds."""

    def finished(self, operation: str, seconds: float, failed: bool) -> None:
        """See `Observer`."""
        _made(STORE_SECONDS.name).observe(seconds, {"operation": operation})
        _made(STORE_REQUESTS.name).inc(1, {"outcome": "failed" if failed else "answered"})

    def retried(self) -> None:
        """See `Observer`."""
        _made(STORE_REQUESTS.name).inc(1, {"outcome": "retried"})


def report_store() -> None:
    """Report the store's operations in this process from now on, if it is connected to Ray."""
    if ray.is_initialized():
        observe(_StoreReporter())


@contextmanager
def reporting() -> Iterator[None]:
    """Report the store's operations while this process is connected to Ray.

    What is made in one connection reports nothing in the next: a night connects once for each study.
    """
    report_store()
    try:
        yield
    finally:
        observe(None)
        _made.cache_clear()
