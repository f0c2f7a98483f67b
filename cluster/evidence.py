"""What a store holds about a study: rows of its tables, its verdict, its report. Nothing here computes a result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharelm.errors import InputError, ShareLMError, nearest
from sharelm.store import Manifest, Store, open_store
from sharelm.store.logs import newest_log
from sharelm.store.studies import latest_study
from sharelm.study import load_study
from sharelm.study.load import name_of
from sharelm.study.thresholds import STAGES
from sharelm.tables import TABLES
from sharelm.tables.messages import message
from sharelm.tables.rows import ComparisonRow, Finding, rows_of
from sharelm.words import say, spoken

REPORTS = "reports"  # each step holds report.html, report.md and report.json


class GateNotMet(ShareLMError):
    """The evidence does not support the roll-out stage; the message says what it lacks."""

    exit_code = 3


def _known(store: Store, name: str) -> None:
    there = store.studies()
    if name not in there:
        raise InputError(f"study {name!r} is not in {store.uri}{nearest(name, there) if there else '; it is empty'}")


def committed_trials(uri: str, name: str) -> list[str]:
    """The trials of this study that are in the store, with any code and any execution settings."""
    store = open_store(uri)
    return sorted(set(store.read("trials", name).column("trial").to_pylist()))


def committed_steps(uri: str, name: str | None = None) -> dict[str, dict[str, int]]:
    """How many steps are committed, by study and table; only tables that have some."""
    counts: dict[str, dict[str, int]] = {}
    for row in table_overview(uri, name):
        counts.setdefault(row["study"], {})[row["table"]] = row["steps"]
    return counts


def table_overview(uri: str, name: str | None) -> list[dict[str, Any]]:
    """Steps, rows, bytes and newest commit of every table and study."""
    store = open_store(uri)
    if name is not None:
        _known(store, name)
    overview = []
    for table in (*TABLES, REPORTS):
        steps = store.manifests(table, name)
        for study in sorted({step.study for step in steps}):
            own = [step for step in steps if step.study == study]
            overview.append(
                {
                    "study": study,
                    "table": table,
                    "steps": len(own),
                    "rows": sum(step.rows or 0 for step in own),
                    "bytes": sum(record.bytes for step in own for record in step.files),
                    "newest": max(step.committed_at for step in own),
                }
            )
    return overview


def table_files(uri: str, table: str, name: str | None) -> list[str]:
    """The addresses of a table's committed Parquet files."""
    _table(table)
    return open_store(uri).files(table, name)


def table_rows(uri: str, table: str, name: str | None) -> Any:
    """A table's committed rows, as an Arrow table."""
    _table(table)
    store = open_store(uri)
    if name is not None:
        _known(store, name)
    return store.read(table, name)


def _table(table: str) -> None:
    if table not in TABLES:
        raise InputError(f"table {table!r} is not known{nearest(table, TABLES)}")


def stored_log(uri: str, name: str) -> str:
    """What a study's newest run wrote, and the last words of what failed in it; `InputError` where none is kept."""
    store = open_store(uri)
    _known(store, name)
    found = newest_log(store, name)
    if found is None:
        raise InputError(f"no log of study {name!r} is kept in {store.uri}")
    return found


def newest_report(store: Store, name: str) -> Manifest:
    """The report committed last, by the clocks of the machines that did; an error where the study is not finished."""
    _known(store, name)
    reports: Sequence[Manifest] = store.manifests(REPORTS, name)
    if not reports:
        raise ShareLMError(f"study {name!r} in {store.uri} is not finished: it has no report yet; run it again")
    return max(reports, key=lambda report: report.committed_at)


def newest_comparisons(uri: str, name: str, required: bool) -> list[ComparisonRow]:
    """The comparisons of a study's newest report; none where it has no report and is not required to have one."""
    store = open_store(uri)
    if not required and not store.manifests(REPORTS, name):
        return []
    return rows_of(ComparisonRow, store.read("comparisons", name, steps=[newest_report(store, name).step]))


def export_report(uri: str, argument: str, out: Path) -> list[Path]:
    """Copy the newest report's files into a folder; their paths."""
    store = open_store(uri)
    report = newest_report(store, name_of(argument))
    written = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for record in report.files:
            (out / record.name).write_bytes(store.read_bytes(report, record.name))
            written.append(out / record.name)
    except OSError as error:
        raise InputError(f"--out = {str(out)!r} cannot be written: {error.strerror}") from None
    return written


def stored_verdict(uri: str, argument: str) -> dict[str, Any]:
    """The newest verdict: `headline` lines, and the rows of `verdicts` and `comparisons` it rests on.

    A row of `verdicts` has its figures unpacked and its `sentence` beside its code. `failed` names the steps that
    failed for good, without which the verdict was drawn. `rule` has the digests of the rule that was recorded before
    the first step and of the one that was used; another one makes the verdict exploratory. None for older reports.

    `differs` is True where the argument is a study file that is not the one last recorded under its name.
    """
    store = open_store(uri)
    name = name_of(argument)
    report = newest_report(store, name)
    recorded = latest_study(store, name)
    verdicts, comparisons = (store.read(table, name, steps=[report.step]) for table in ("verdicts", "comparisons"))
    where = {"study": name, "step": report.step}
    return {
        "study": name,
        "store": store.uri,
        "committed_at": report.committed_at,
        "differs": argument != name and recorded != load_study(argument),
        "headline": list(report.facts["headline"]),
        "rule": report.facts.get("rule"),
        "failed": [each["step"] for each in report.facts.get("missing", [])],
        "verdicts": [spoken(row) | where for row in rows_of(Finding, verdicts)],
        "comparisons": comparisons.to_pylist(),
    }


def check_gate(verdict: dict[str, Any], stage: str) -> list[str]:
    """The variants for which the evidence supports this roll-out stage.

    Raises `InputError` for an unknown stage, `GateNotMet` with what each variant lacks where it supports none.
    """
    if stage not in STAGES:
        raise InputError(f"--gate = {stage!r} is not a stage{nearest(stage, STAGES)}")
    if verdict["failed"]:
        raise GateNotMet(
            f"study {verdict['study']!r} is not finished: {', '.join(verdict['failed'])} failed; run it again"
        )
    rows = [row for row in verdict["verdicts"] if row["kind"] == "stage" and row["name"] == stage]
    supported = [row["variant"] for row in rows if row["outcome"] == "supported"]
    if not supported:
        lacks = [message("gate", "lacks", variant=row["variant"], finding=row["sentence"]) for row in rows]
        raise GateNotMet(say("gate", "not_met", {"stage": stage, "study": verdict["study"], "lacks": lacks}))
    return supported
