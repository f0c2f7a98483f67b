"""What a study has spent, held against its `[limits]`."""

from __future__ import annotations

from sharelm.cost.money import SECONDS_PER_HOUR, cost_of_seconds
from sharelm.errors import ShareLMError
from sharelm.formats import plain
from sharelm.store import Store
from sharelm.study import Study
from sharelm.study.limits import Limits
from sharelm.tables.rows import TrialRow, rows_of


class LimitReached(ShareLMError):
    """The study has spent what it may; what is committed stays."""


class Spending:
    """Device-seconds of a study: those of earlier runs by their committed trials, those of this run by the board."""

    def __init__(self, study: Study, store: Store) -> None:
        self._study, self._limits = study, study.limits
        self._before = 0.0
        if self._limits != Limits():
            trials = rows_of(TrialRow, store.read("trials", study.name))
            self._before = sum(trial.training_seconds * trial.workers for trial in trials)

    def check(self, device_seconds: float, left: int) -> None:
        """Raise `LimitReached` where a limit is reached.

        `device_seconds` are this run's, as the board has them; `left` trials are not trained yet.
        """
        seconds, cost = self._before + device_seconds, self._study.cost
        money = cost_of_seconds(seconds, 1, cost.price_per_hour)
        for name, limit, spent, unit in (
            ("device_hours", self._limits.device_hours, seconds / SECONDS_PER_HOUR, "device-hours"),
            ("money", self._limits.money, money, cost.currency),
        ):
            if limit is not None and spent >= limit:
                raise LimitReached(
                    f"limits.{name} = {plain(limit)} is reached: study {self._study.name!r} has spent {spent:.3g} "
                    f"{unit}, and {left} trials are left; what is committed stays: raise the limit and run again to "
                    "carry on"
                )
