"""A finished study judged by this version's statistics: `python -m jobs.judge --study NAME --store URI`.

Comparisons, verdicts and report are made anew from the rows that the newest report rests on. Nothing is trained, and
what the study committed stays.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jobs.conclude import CONCLUDED, REPORTS, conclude, read_plan
from jobs.program import program
from sharelm.digest import digest, package_digest
from sharelm.errors import InputError, ShareLMError
from sharelm.store import Manifest, Store, open_store
from sharelm.store.studies import latest_study
from sharelm.study import Plan, expand
from sharelm.study.load import name_of

_MADE_ANEW = {"headline", "steps", "plan", "code"}


def judge(study: Path, uri: str) -> tuple[Manifest, bool]:
    """The report of a finished study (a name, or its file) by this code, and whether it was there already.

    Raises `InputError` for a study that the store does not have, `ShareLMError` for one that is not finished.
    """
    store, name = open_store(uri), name_of(str(study))
    if name not in store.studies():
        raise InputError(f"study {name!r} is not in {store.uri}; there are {', '.join(store.studies()) or 'none'}")
    reports = store.manifests(REPORTS, name)
    if not reports:
        raise ShareLMError(f"study {name!r} in {store.uri} is not finished: it has no report to judge again; run it")
    newest = max(reports, key=lambda manifest: manifest.committed_at)
    code = package_digest("sharelm", "jobs")
    if newest.facts.get("code") == code:
        return newest, True
    facts: dict[str, Any] = {key: value for key, value in newest.facts.items() if key not in _MADE_ANEW}
    facts["judged"] = facts.get("judged", newest.step)  # the report of the run itself
    step = digest({"step": "judge", "report": facts["judged"], "code": code})
    steps = {table: names for table, names in newest.facts["steps"].items() if table not in CONCLUDED}
    return conclude(_plan(store, newest), store, step, steps, facts), False


def _plan(store: Store, report: Manifest) -> Plan:
    """What the report's study expanded into; of one that was finished before plans were kept, from the study alone."""
    if "plan" in report.facts:
        return read_plan(store, report.study, report.facts["plan"])
    study = latest_study(store, report.study)
    if study is None or study.training.tune is not None or "time" in study.twins.axes:
        raise ShareLMError(
            f"study {report.study!r} in {store.uri} was finished by a version that kept no plan, and it has tuned "
            "learning rates or a time axis: run it again"
        )
    return expand(study)


def _say(store: str, report: Manifest, was_there: bool) -> None:
    print("\n".join(report.facts["headline"]))
    print(f"study {report.study!r} {'was judged by this version already' if was_there else 'is judged again'}")
    print(f"report: {open_store(store).address(report, 'report.html')}")


def main(arguments: list[str] | None = None) -> int:
    """Judge a study from the command line; returns the exit code."""
    return program("jobs.judge", "Judge a finished study by this version's statistics.", judge, _say, arguments)


if __name__ == "__main__":
    sys.exit(main())
