"""What the command `nightly` does at the terminal: show what a night measures, move a baseline."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.show import columns
from sharelm.digest import digest
from sharelm.errors import InputError, nearest
from sharelm.steps import night_step
from sharelm.store import Store, open_store
from sharelm.study import expand, load_study
from sharelm.study.load import name_of
from sharelm.tables.rows import BaselineRow, HistoryRow, rows_of, table_of


def accept(study: str, uri: str, metric: str, reason: str) -> BaselineRow:
    """Move the baseline of a metric (of all its subjects, or `metric:subject`) to the newest night, and record why.

    Raises `InputError` for a study without nights, an unknown metric and an empty reason.
    """
    if not reason.strip():
        raise InputError("--reason is empty; say why the change is accepted")
    store, name = open_store(uri), name_of(study)
    rows = _history(store, name)
    if not rows:
        raise InputError(f"study {name!r} has no night in {store.uri}; run `sharelm nightly` first")
    known = sorted({row.metric for row in rows} | {row.key for row in rows})
    if metric not in known:
        raise InputError(f"--accept = {metric!r} is no metric of study {name!r}{nearest(metric, known)}")
    night = max(row.night for row in rows if metric in (row.metric, row.key))
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    row = BaselineRow(metric=metric, night=night, reason=reason, accepted_by=getpass.getuser(), accepted_at=now)
    store.commit_rows("baselines", name, digest({"step": "baseline", **vars(row)}), table_of(BaselineRow, [row]))
    return row


def nightly_plan(studies: Sequence[Path], uri: str, night: str) -> list[dict[str, Any]]:
    """For each study, what its night measures anew, what it reuses, and what it is compared with."""
    store, found = open_store(uri), []
    for path in studies:
        study = load_study(path)
        trials = len(expand(study).trials)
        rows = [row for row in _history(store, study.name) if row.night < night]
        accepted = rows_of(BaselineRow, store.read("baselines", study.name))
        found.append(
            {
                "study": study.name,
                "night": night,
                "done": store.find("history", study.name, night_step(study.name, night)) is not None,
                "anew": {
                    "trials": trials,
                    "scores": trials * sum(task.shards for task in study.evaluation.task),
                    "costs": trials * len(study.cost.workload),
                },
                "reused": ["data", "speeds of the time axis", "learning rates that were tuned"],
                "nights": sorted({row.night for row in rows}),
                "baselines": [vars(row) for row in accepted],
            }
        )
    return found


def nightly_plan_text(planned: Sequence[dict[str, Any]]) -> str:
    """The same as text."""
    parts = []
    for one in planned:
        anew, nights = one["anew"], one["nights"]
        lines = [
            f"Night {one['night']} of study {one['study']}" + (": committed already." if one["done"] else "."),
            f"Measured anew: {anew['trials']} trials, {anew['scores']} scores, {anew['costs']} costs.",
            f"Reused where they are committed and unchanged: {', '.join(one['reused'])}.",
            f"Compared with: {f'{len(nights)} nights from {nights[0]} to {nights[-1]}' if nights else 'nothing yet'}.",
        ]
        if one["baselines"]:
            names = ("metric", "night", "accepted_by", "reason")
            lines += [
                "Accepted baselines:",
                columns([[row[name] for name in names] for row in one["baselines"]], names),
            ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _history(store: Store, study: str) -> list[HistoryRow]:
    return rows_of(HistoryRow, store.read("history", study))
