"""From committed rows to comparisons, verdicts and the report: the last step of a study."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from sharelm.digest import digest, package_digest
from sharelm.report import build
from sharelm.report.caveats import rule_caveats
from sharelm.statistics.compare import compare
from sharelm.statistics.worth import worth
from sharelm.steps import rule_digest
from sharelm.store import Manifest, Store
from sharelm.store.studies import recorded_rule
from sharelm.study import Plan, plan_from_tree
from sharelm.study.proxies import tuning_rows
from sharelm.tables import TABLES
from sharelm.verdict import decide
from sharelm.words import headline, render

REPORTS, PLANS, PLAN = "reports", "plans", "plan.json"
CONCLUDED = ("comparisons", "sharing_worth", "verdicts", "tunings")  # tables that this step makes from others' rows


def commit_plan(plan: Plan, store: Store) -> str:
    """Commit the plan under the digest of its content; that digest."""
    tree = plan.tree()
    name = digest(tree)
    store.commit(PLANS, plan.study.name, name, {PLAN: json.dumps(tree).encode()})
    return name


def read_plan(store: Store, study: str, name: str) -> Plan:
    """The committed plan of this digest."""
    manifest = store.find(PLANS, study, name)
    assert manifest is not None  # a report is committed after its plan
    return plan_from_tree(json.loads(store.read_bytes(manifest, PLAN)))


def conclude(
    plan: Plan, store: Store, step: str, steps: Mapping[str, Collection[str]], facts: Mapping[str, Any]
) -> Manifest:
    """Compare, decide, report and commit, the report last: it makes the study finished.

    `steps` names the steps whose rows count, table by table; rows of other settings or of older code that lie in
    the same tables do not. `facts` are told in the report, and whether the rule is the one that was recorded before
    the first step: another one makes the verdict exploratory. What `judge` needs to do this again is committed beside.
    """
    study = plan.study.name
    tables = {table: store.read(table, study, steps=names) for table, names in steps.items()}
    tables["comparisons"] = compare(plan, tables["scores"])
    tables["sharing_worth"] = worth(plan, tables["scores"])
    tables["verdicts"] = decide(plan, tables["comparisons"], tables["trials"], tables["costs"])
    if plan.tunings:
        tables["tunings"] = pa.Table.from_pylist(tuning_rows(plan), schema=TABLES["tunings"])
    concluded = [table for table in CONCLUDED if table in tables]
    for table in concluded:
        store.commit_rows(table, study, step, tables[table])
    lines = headline(plan.study, tables["verdicts"])
    facts = {**facts, "rule": {"recorded": recorded_rule(store, study), "used": rule_digest(plan.study)}}
    report = build(plan, tables, lines, facts)
    files = {
        "report.html": report.html.encode(),
        "report.md": report.markdown.encode(),
        "report.json": report.json.encode(),
    }
    current = {table: sorted(names) for table, names in steps.items()} | {table: [step] for table in concluded}
    told = {
        "headline": [line.text for line in lines] + [render(found) for found in rule_caveats(facts)],
        "steps": current,
        "plan": commit_plan(plan, store),
        "code": package_digest("sharelm", "jobs"),
    }
    return store.commit(REPORTS, study, step, files, facts={**facts, **told})
