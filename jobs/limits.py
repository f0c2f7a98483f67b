"""What a study has spent, held against its `[limits]`."""

from __future__ import annotations

from collections.abc import Iterable

from sharelm.errors import ShareLMError
from sharelm.formats import plain
from sharelm.store import Store
from sharelm.study import Study

SECONDS_PER_HOUR = 3600


class LimitReached(ShareLMError):
    """The study has spent what it may; what is committed stays."""


class Spending:
    """Device-hours of a study: those of earlier runs by their committed trials, those of this run by the board."""

    def __init__(self, study: Study, store: Store) -> None:
        self._study, self._limits = study, study.limits
        self._before = 0.0
        if self.limited:
            trials = store.read("trials", study.name).select(["training_seconds", "workers"]).to_pylist()
            self._before = sum(row["training_seconds"] * row["workers"] for row in trials) / SECONDS_PER_HOUR

    @property
    def limited(self) -> bool:
        """Whether the study has a limit."""
        return self._limits.device_hours is not None or self._limits.money is not None

    def check(self, spans: Iterable[tuple[str, float, float]], left: int) -> None:
        """Raise `LimitReached` where a limit is reached.

        `spans` are this run's: kind, start and end in seconds, each of one worker group or one task. `left` trials are
        not trained yet.
        """
        if not self.limited:
            return
        training = self._study.training
        devices = {"training": training.workers / training.together}
        here = sum((end - start) * devices.get(kind, 1.0) for kind, start, end in spans) / SECONDS_PER_HOUR
        hours, price, currency = self._before + here, self._study.cost.price_per_hour, self._study.cost.currency
        for name, limit, spent, unit in (
            ("device_hours", self._limits.device_hours, hours, "device-hours"),
            ("money", self._limits.money, hours * price, currency),
        ):
            if limit is not None and spent >= limit:
                raise LimitReached(
                    f"limits.{name} = {plain(limit)} is reached: study {self._study.name!r} has spent {spent:.3g} "
                    f"{unit}, and {left} trials are left; what is committed stays: raise the limit and run again to "
                    "carry on"
                )
