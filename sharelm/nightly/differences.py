"""What is not as it was on an earlier night: settings as resolved, versions of packages, code, device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sharelm.formats import NOTHING
from sharelm.report.settings import resolved
from sharelm.tables.rows import HistoryRow, TrialRow

CODE, DEVICE = "ShareLM's code", "device"


@dataclass(frozen=True)
class Difference:
    """Something that the earlier night had otherwise; a dash where it had none."""

    what: str
    then: str
    now: str


def last_good(rows: Sequence[HistoryRow], night: str) -> str | None:
    """The night before the first of this night's lasting changes for the worse; None where nothing is worse.

    It is the baseline's night where the change began with the first night after it.
    """
    worse = [row for row in rows if row.night == night and row.state == "worse" and row.since is not None]
    if not worse:
        return None
    began = min(str(row.since) for row in worse)
    before = [row.night for row in rows if row.night < began]
    return max(before, default=None)


def differences(
    then: Sequence[HistoryRow],
    now: Sequence[HistoryRow],
    trials_then: Sequence[TrialRow],
    trials_now: Sequence[TrialRow],
) -> list[Difference]:
    """Everything in which two nights differ, by the rows and trials of both."""
    before, after = _facts(then[0], trials_then), _facts(now[0], trials_now)
    found = []
    for what in dict.fromkeys([*before, *after]):
        values = before.get(what, NOTHING), after.get(what, NOTHING)
        if values[0] != values[1]:
            found.append(Difference(what, *values))
    return found


def _facts(row: HistoryRow, trials: Sequence[TrialRow]) -> dict[str, str]:
    facts = {CODE: row.code, DEVICE: row.device, **json.loads(row.packages_json)}
    arms: set[str] = set()
    for trial in sorted(trials, key=lambda trial: (trial.arm, trial.seed)):
        if trial.arm not in arms:  # seeds of an arm differ in their seed alone
            arms.add(trial.arm)
            facts |= {f"{trial.arm}: {key}": value for key, value in (resolved(trial) or {}).items()}
    return facts
