"""The board: where workers say what they are doing, and from which the driver reads progress and time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import ray

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


@ray.remote(num_cpus=0)
class Board:
    """Kept by the driver; every worker holds its handle."""

    def __init__(self) -> None:
        self._now = Snapshot()

    def step(self, trial: str, standing: Standing) -> None:
        """Note how far a trial is."""
        self._now.trials[trial] = standing

    def span(self, name: str, kind: str, start: float, end: float) -> None:
        """Note that work of this kind filled this span of time; a later note of the same name extends it."""
        self._now.busy[name] = (kind, start, end)

    def read(self) -> Snapshot:
        """Everything noted so far."""
        return self._now


@contextmanager
def busy(board: Any, kind: str) -> Iterator[None]:
    """Note the time inside as work of this kind."""
    start = time.time()
    yield
    board.span.remote(uuid4().hex, kind, start, time.time())


class TrainingReporter:
    """What `train_trial` calls after every step; passes it on to the board at most twice a second."""

    def __init__(self, board: Any, steps: int) -> None:
        self._board, self._steps = board, steps
        self._span, self._start, self._told, self._last = "", 0.0, 0.0, -1

    def __call__(self, trial: str, step: int, loss: float, tokens_per_second: float, seconds: float) -> None:
        """Note a finished step; `seconds` is how long it took."""
        now = time.time()
        if step != self._last + 1 or not self._span:
            self._span, self._start = f"{trial}-{uuid4().hex}", now - seconds
        self._last = step
        if now - self._told >= REPORT_EVERY_S or step == self._steps:
            self._told = now
            self._board.step.remote(trial, Standing(step, loss, tokens_per_second))
            self._board.span.remote(self._span, "training", self._start, now)
        if step == self._steps:
            self._span = ""


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds covered by at least one of the spans."""
    total, reach = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return total
