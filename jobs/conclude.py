"""From committed rows to comparisons, verdicts and the report: the last step of a study."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from sharelm.report import build
from sharelm.statistics import compare, worth
from sharelm.store import Manifest, Store
from sharelm.study import Study
from sharelm.study.proxies import tuning_rows
from sharelm.tables import TABLES
from sharelm.verdict import decide
from sharelm.words import headline

REPORTS = "reports"


def conclude(
    study: Study, store: Store, step: str, steps: Mapping[str, Collection[str]], facts: Mapping[str, Any]
) -> Manifest:
    """Compare, decide, report and commit, the report last: it makes the study finished.

    `steps` names the steps whose rows count, table by table; rows of other settings or of older code that lie in
    the same tables do not. `facts` are told in the report.
    """
    tables = {table: store.read(table, study.name, steps=names) for table, names in steps.items()}
    tables["comparisons"] = compare(study, tables["scores"])
    tables["sharing_worth"] = worth(study, tables["scores"])
    tables["verdicts"] = decide(study, tables["comparisons"], tables["trials"], tables["costs"])
    concluded = ["comparisons", "sharing_worth", "verdicts"]
    if study.tunings:
        tables["tunings"] = pa.Table.from_pylist(tuning_rows(study), schema=TABLES["tunings"])
        concluded.append("tunings")
    for table in concluded:
        store.commit_rows(table, study.name, step, tables[table])
    lines = headline(study, tables["verdicts"])
    report = build(study, tables, lines, facts)
    files = {
        "report.html": report.html.encode(),
        "report.md": report.markdown.encode(),
        "report.json": report.json.encode(),
    }
    texts = [line.text for line in lines]
    current = {table: sorted(names) for table, names in steps.items()} | {table: [step] for table in concluded}
    return store.commit(REPORTS, study.name, step, files, facts={**facts, "headline": texts, "steps": current})
