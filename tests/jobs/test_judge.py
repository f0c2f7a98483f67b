"""Judging a finished study again: from its committed plan and rows, without training."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

import jobs.judge
from jobs.conclude import PLANS, REPORTS, commit_plan, conclude, read_plan
from sharelm.errors import ShareLMError
from sharelm.store import Store, open_store
from sharelm.store.studies import record_study
from sharelm.study import Measured, Plan, Speeds, Tried, expand, tuning
from sharelm.study.load import study_from_tree
from sharelm.tables import TABLES
from tests.sharelm.small import TREE
from tests.sharelm.synthetic import synthetic_tables

ROWS = ("trials", "steps", "scores", "costs")


@pytest.fixture
def plan() -> Plan:
    """A study that only measurements expand: with a time axis and tuned learning rates."""
    tune = {"learning_rates": [1e-3, 1e-2, 1e-1], "tokens": 256}
    study = study_from_tree(
        {**TREE, "twins": {"axes": ["depth", "time"]}, "training": {**TREE["training"], "tune": tune}}, "test"
    )
    tried = [Tried(rate, loss, 1.0) for rate, loss in zip(tune["learning_rates"], (3.0, 2.0, 4.0), strict=True)]
    tunings = {arm.model: tuning("grid", tried) for arm in expand(study).models}
    return expand(study, Measured({"cycle": Speeds(1000.0, 2000.0)}, tunings))


@pytest.fixture
def finished(tmp_path: Path, plan: Plan) -> Store:
    store = open_store(str(tmp_path))
    record_study(store, plan.study, "test")
    for table, rows in synthetic_tables(plan, steps=5).items():
        if table in ROWS:
            store.commit_rows(table, "small", "planted", rows.select(TABLES[table].names))
    conclude(plan, store, "first", {table: ["planted"] for table in ROWS}, {"wall_seconds": 1.0, "device": "a CPU"})
    return store


def test_a_plan_is_committed_whole(tmp_path: Path, plan: Plan) -> None:
    store = open_store(str(tmp_path))
    name = commit_plan(plan, store)
    assert commit_plan(plan, store) == name
    assert read_plan(store, "small", name) == plan
    assert len(store.manifests(PLANS)) == 1
    assert any(arm.name.endswith("steps12") for arm in plan.arms)
    assert {arm.learning_rate for arm in plan.arms} == {1e-2}


def test_a_study_is_judged_again_by_new_code_alone(
    finished: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--study", "small", "--store", finished.uri]
    assert jobs.judge.main([*arguments, "--json"]) == 0  # the same code: nothing to do
    assert json.loads(capsys.readouterr().out)["step"] == "first"
    monkeypatch.setattr(jobs.judge, "package_digest", lambda *_: "newer code")
    monkeypatch.setattr("jobs.conclude.package_digest", lambda *_: "newer code")
    assert jobs.judge.main(arguments) == 0
    (first, second) = sorted(finished.manifests(REPORTS, "small"), key=lambda report: report.committed_at)
    assert first.step == "first"
    assert second.facts["judged"] == "first"
    told = capsys.readouterr().out
    assert told.startswith("\n".join(first.facts["headline"]))
    assert finished.address(second, "report.html") in told
    again = [finished.read("comparisons", "small", steps=[report.step]) for report in (first, second)]
    assert again[0].drop_columns("step").equals(again[1].drop_columns("step"))
    assert jobs.judge.main(arguments) == 0
    assert len(finished.manifests(REPORTS, "small")) == 2


def test_a_verdict_under_another_rule_is_exploratory(
    finished: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (first,) = finished.manifests(REPORTS, "small")
    assert first.facts["rule"]["recorded"] == first.facts["rule"]["used"]
    assert not any("Exploratory" in line for line in first.facts["headline"])
    monkeypatch.setattr(jobs.judge, "package_digest", lambda *_: "newer code")
    monkeypatch.setattr("jobs.conclude.package_digest", lambda *_: "newer code")
    monkeypatch.setattr("jobs.conclude.rule_digest", lambda _: "another")
    assert jobs.judge.main(["--study", "small", "--store", finished.uri]) == 0
    assert "Exploratory: the rule of this verdict (another) is not the one" in capsys.readouterr().out
    report = max(finished.manifests(REPORTS, "small"), key=lambda manifest: manifest.committed_at)
    assert report.facts["rule"] == {"recorded": first.facts["rule"]["recorded"], "used": "another"}
    assert b"Exploratory" in finished.read_bytes(report, "report.html")


def test_an_unknown_and_an_unfinished_study_are_refused(
    tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(str(tmp_path))
    assert jobs.judge.main(["--study", "small", "--store", str(tmp_path)]) == 2
    record_study(store, plan.study, "test")
    assert jobs.judge.main(["--study", "small", "--store", str(tmp_path)]) == 1
    assert "is not finished" in capsys.readouterr().err


def test_a_study_from_before_plans_is_judged_where_nothing_was_measured(finished: Store, plan: Plan) -> None:
    (report,) = finished.manifests(REPORTS, "small")
    finished.remove(report)
    facts = {key: value for key, value in report.facts.items() if key not in ("plan", "code")}
    old = finished.commit(REPORTS, "small", "first", {}, facts=facts)
    with pytest.raises(ShareLMError, match="kept no plan"):
        jobs.judge._plan(finished, old)


def test_a_study_of_an_older_version_is_judged_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The English study as it was committed, by a version with other schemas and names of settings."""
    with tarfile.open(Path(__file__).parents[2] / "docs/results/english/store.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    store = open_store(str(tmp_path))
    assert jobs.judge.main(["--study", "english", "--store", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "The full model's accuracy is not kept by any of the 10 variants" in said
    assert "Exploratory: no rule was recorded before the first step" in said
    reports = sorted(store.manifests(REPORTS, "english"), key=lambda report: report.committed_at)
    found = []
    for report in (reports[-2], reports[-1]):
        rows = store.read("verdicts", "english", steps=[report.step]).to_pylist()
        found.append([(row["variant"], row["kind"], row["name"], row["outcome"]) for row in rows])
    assert found[0] == found[1]
    assert len(found[0]) > 50
