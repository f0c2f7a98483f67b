"""A night: studies run anew and held against their baselines: `python -m jobs.nightly --study FILE --store URI`.

Exit codes: 0 nothing is worse, 3 something is worse, 1 a study could not run, 2 bad input, 130 interrupted. A night
that is committed is not run again; one that was interrupted carries on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.conclude import REPORTS, read_plan
from jobs.study import run_study
from jobs.webhook import send
from sharelm.digest import package_digest
from sharelm.errors import InputError, ShareLMError, first_line
from sharelm.nightly.differences import Difference, differences, last_good
from sharelm.nightly.history import History, Night, night_rows
from sharelm.nightly.page import trends_page
from sharelm.steps import night_step
from sharelm.store import Manifest, Store, open_store
from sharelm.study import Study, load_study
from sharelm.tables.rows import BaselineRow, HistoryRow, TrialRow, rows_of, table_of
from sharelm.words.nightly import change_line, could_not, night_lines, night_summary

TRENDS, PAGE = "trends", "trends.html"
WELL, COULD_NOT, WORSE = 0, 1, 3


@dataclass(frozen=True)
class Told:
    """What is told of a study's night; `rows` is empty where the study could not run, for the `reason`."""

    study: str
    night: str
    rows: list[HistoryRow]
    differences: list[Difference]
    page: str = ""
    reason: str = ""

    @property
    def code(self) -> int:
        """The exit code that the night deserves."""
        if self.reason:
            return COULD_NOT
        return WORSE if any(row.state == "worse" for row in self.rows) else WELL

    @property
    def lines(self) -> list[str]:
        """The night in sentences, the whole of it first."""
        if self.reason:
            return [could_not(self.study, self.night, self.reason)]
        changed = [change_line(change.what, change.then, change.now) for change in self.differences]
        return [night_summary(self.study, self.night, self.rows), *night_lines(self.rows), *changed]


def run_night(path: Path, study: Study, uri: str, night: str) -> Told:
    """Run the study's night, compare it, and commit its row of every metric and its page."""
    store, name = open_store(uri), night_step(study.name, night)
    if store.find("history", study.name, name) is None:
        report, _ = run_study(path, uri, night)
        rows = night_rows(_night(store, report, night), _history(store, study.name), _Scores(store, study.name))
        facts = {"night": night, "report": report.step}
        store.commit_rows("history", study.name, name, table_of(HistoryRow, rows), facts)
    every = rows_of(HistoryRow, store.read("history", study.name))
    until = [row for row in every if row.night <= night]
    rows, changed = [row for row in until if row.night == night], _differences(store, study.name, until, night)
    page = store.find(TRENDS, study.name, name)
    if page is None:
        page = store.commit(TRENDS, study.name, name, {PAGE: trends_page(study.name, until, changed).encode()})
    return Told(study.name, night, rows, changed, store.address(page, PAGE))


def _differences(store: Store, study: str, rows: Sequence[HistoryRow], night: str) -> list[Difference]:
    """What has changed since the last night on which nothing of what is worse now was worse."""
    then = last_good(rows, night)
    if then is None:
        return []

    def trials(night: str) -> list[TrialRow]:
        steps = report_of(store, study, night).facts["steps"]["trials"]
        return rows_of(TrialRow, store.read("trials", study, steps=steps))

    before, after = ([row for row in rows if row.night == one] for one in (then, night))
    return differences(before, after, trials(then), trials(night))


def _night(store: Store, report: Manifest, night: str) -> Night:
    """What a night's report rests on."""
    study, facts = report.study, report.facts
    tables = {table: store.read(table, study, steps=facts["steps"][table]) for table in ("trials", "scores", "costs")}
    wall = None if facts["went_on"] else facts["wall_seconds"]
    plan = read_plan(store, study, facts["plan"])
    return Night(night, plan, tables, wall, facts["device"], package_digest("sharelm", "jobs"))


def _history(store: Store, study: str) -> History:
    """Every night and every accepted baseline of a study."""
    accepted = rows_of(BaselineRow, store.read("baselines", study))
    return History(rows_of(HistoryRow, store.read("history", study)), accepted)


class _Scores:
    """The scores of an earlier night, each read once."""

    def __init__(self, store: Store, study: str) -> None:
        self._store, self._study = store, study
        self._read: dict[str, pa.Table] = {}

    def __call__(self, night: str) -> pa.Table:
        """The rows of `scores` that this night's report rests on."""
        if night not in self._read:
            report = report_of(self._store, self._study, night)
            self._read[night] = self._store.read("scores", self._study, steps=report.facts["steps"]["scores"])
        return self._read[night]


def report_of(store: Store, study: str, night: str) -> Manifest:
    """The report of a committed night."""
    history = store.find("history", study, night_step(study, night))
    assert history is not None  # rows of the night were read
    report = store.find(REPORTS, study, history.facts["report"])
    assert report is not None  # it is committed before the night is
    return report


def _try(path: Path, study: Study, uri: str, night: str) -> Told:
    """A study's night, or why it could not run: whatever goes wrong, the next study has its turn."""
    try:
        return run_night(path, study, uri, night)
    except ShareLMError as error:
        return Told(study.name, night, [], [], reason=" ".join(str(error).split()))
    except Exception as error:
        return Told(study.name, night, [], [], reason=first_line(error))


def nightly(studies: Sequence[Path], uri: str, night: str) -> list[Told]:
    """The night of every study, told to the webhook where something is worse or could not run.

    Raises `InputError`, before anything is run, for a study or a night that cannot be read.
    """
    try:
        date.fromisoformat(night)
    except ValueError:
        raise InputError(f"--night = {night!r} is no date; give one such as 2026-11-28") from None
    found = []
    for path, study in [(path, load_study(path)) for path in studies]:
        told = _try(path, study, uri, night)
        if told.code != WELL:
            send(told.lines)
        found.append(told)
    return found


def _print(told: Sequence[Told], as_json: bool) -> None:
    for one in told:
        if as_json:
            plain: dict[str, Any] = {"study": one.study, "night": one.night, "exit_code": one.code, "page": one.page}
            plain |= {"reason": one.reason or None, "lines": one.lines}
            print(json.dumps(plain | {"metrics": [asdict(row) for row in one.rows]}))
        else:
            print("\n".join([*one.lines, *([f"trends: {one.page}"] if one.page else [])]))


def main(arguments: list[str] | None = None) -> int:
    """Run a night from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.nightly", description="Run studies' night on Ray.")
    parser.add_argument("--study", type=Path, action="append", required=True, help="a study's TOML file; several times")
    parser.add_argument("--store", required=True, help="a folder or s3://bucket/prefix")
    parser.add_argument(
        "--night", default=datetime.now(UTC).date().isoformat(), help="a date; today's (UTC) without it"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line a study instead of text")
    options = parser.parse_args(arguments)
    try:
        told = nightly(options.study, options.store, options.night)
    except InputError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was committed stays, run again to carry on", file=sys.stderr)
        return 130
    _print(told, options.json)
    codes = {one.code for one in told}
    return next(code for code in (WORSE, COULD_NOT, WELL) if code in codes)


if __name__ == "__main__":
    sys.exit(main())
