"""The board: where workers say what they are doing, and from which the driver reads progress and time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from uuid import uuid4

import ray

from jobs.metrics import report_speed, report_spending
from sharelm.cost.money import cost_of_seconds
from sharelm.study import Study

REPORT_EVERY_S = 0.5


@dataclass
class Standing:
    """How far a trial is: optimizer step, last loss in nats, tokens per second."""

    step: int
    loss: float
    tokens_per_second: float


@dataclass
class Snapshot:
    """The board at one moment; `busy` maps a span's id to [kind, start, end] in seconds since the epoch."""

    trials: dict[str, Standing] = field(default_factory=dict)
    busy: dict[str, tuple[str, float, float]] = field(default_factory=dict)
    device_seconds: float = 0.0  # the spans' lengths times the devices that each of them takes


@ray.remote(num_cpus=0)
class Board:
    """Kept by the driver; every worker holds its handle. It reports the money that the noted work costs."""

    def __init__(self, study: Study) -> None:
        self._study, self._price, self._currency = study.name, study.cost.price_per_hour, study.cost.currency
        self._now = Snapshot()

    def step(self, trial: str, standing: Standing) -> None:
        """Note how far a trial is."""
        self._now.trials[trial] = standing

    def span(self, name: str, kind: str, start: float, end: float, devices: float) -> None:
        """Note that work of this kind filled this span of time on so many devices.

        A later note of the same name extends it.
        """
        _, _, known = self._now.busy.get(name, (kind, start, start))
        self._now.busy[name] = (kind, start, end)
        device_seconds = (end - known) * devices
        self._now.device_seconds += device_seconds
        report_spending(self._study, self._currency, cost_of_seconds(device_seconds, 1, self._price))

    def read(self) -> Snapshot:
        """Everything noted so far."""
        return self._now


@contextmanager
def busy(board: Any, kind: str, devices: float) -> Iterator[None]:
    """Note the time inside as work of this kind on so many devices."""
    start = time.time()
    yield
    board.span.remote(uuid4().hex, kind, start, time.time(), devices)


class TrainingReporter:
    """What `train_trial` calls after every step; passes it on at most twice a second. A context manager.

    Args:
        board: where progress is noted.
        study: the study's name, for the metric of the trial's speed.
        steps: optimizer steps of the trial.
        devices: those that all its workers take.
    """

    def __init__(self, board: Any, study: str, steps: int, devices: float) -> None:
        self._board, self._study, self._steps, self._devices = board, study, steps, devices
        self._trial: str | None = None  # once it was told: rank 0 alone reports
        self._span, self._start, self._told, self._last = "", 0.0, 0.0, -1

    def __enter__(self) -> TrainingReporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The group's next trial trains in the same process: this one's speed would stay as it was."""
        if self._trial is not None:
            report_speed(self._study, self._trial, 0.0)

    def __call__(self, trial: str, step: int, loss: float, tokens_per_second: float, seconds: float) -> None:
        """Note a finished step; `seconds` is how long it took."""
        now = time.time()
        if step != self._last + 1 or not self._span:
            self._span, self._start = f"{trial}-{uuid4().hex}", now - seconds
        self._last = step
        if now - self._told >= REPORT_EVERY_S or step == self._steps:
            self._told, self._trial = now, trial
            report_speed(self._study, trial, tokens_per_second)
            self._board.step.remote(trial, Standing(step, loss, tokens_per_second))
            self._board.span.remote(self._span, "training", self._start, now, self._devices)
        if step == self._steps:
            self._span = ""


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds covered by at least one of the spans."""
    total, reach = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return total
