"""`verdict`, `report` and `tables` against a store in which two revisions of an answer were planted."""

import csv
import io
import json

import duckdb
import pyarrow as pa
import pytest

from sharelm.store import open_store
from sharelm.store.studies import record_study
from sharelm.study import load_study
from sharelm.tables import TABLES
from sharelm.tables.messages import as_json, message
from sharelm.tables.rows import Finding, table_of

OLD, NEW = "0" * 20, "1" * 20
LINES = ["Shown: albert keeps the loss.", "Accuracy: met.", "Inference cost: not met.", "Upkeep: met.", "Roll-out: so."]


def rows(table, values):
    names = TABLES[table].names
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in values], schema=TABLES[table])


def stage(variant, name, outcome, code, figures=None):
    return Finding(variant, "stage", name, outcome, code, None, None, None, as_json(figures or {}))


NOT_SHOWN = {"of": "accuracy", "outcome": "not_shown", "finding": message("kpi", "one_document", documents=1)}


def plant(store, step, lines, findings):
    store.commit_rows("verdicts", "quickstart", step, table_of(Finding, findings))
    store.commit_rows("comparisons", "quickstart", step, rows("comparisons", [{"variant": "albert", "seeds": 2}]))
    files = {"report.html": b"<p>\xc3\xa9</p>", "report.md": step.encode(), "report.json": b"{}"}
    store.commit("reports", "quickstart", step, files, facts={"headline": lines})


@pytest.fixture
def answered(tmp_path, study_file):
    """The address of a store with trials, and with an older and a newer report."""
    store = open_store(str(tmp_path / "store"))
    record_study(store, load_study(study_file()), "study.toml")
    for seed, loss in ((0, 3.5), (1, float("nan"))):
        trial = {"trial": f"albert.s{seed}", "arm": "albert", "seed": seed, "final_loss_nats": loss, "status": "done"}
        trial |= {"attention_schedule": [0, 0, 0, 0]}
        store.commit_rows("trials", "quickstart", f"{seed}" * 20, rows("trials", [trial]))
    plant(store, OLD, ["An older answer."], [stage("albert", "everywhere", "supported", "gate_met")])
    plant(
        store,
        NEW,
        LINES,
        [
            stage("albert", "proof_of_concept", "not_supported", "gate_kpi", NOT_SHOWN),
            stage("cycle", "proof_of_concept", "supported", "gate_met"),
            stage("albert", "everywhere", "not_supported", "gate_kpi", NOT_SHOWN),
            stage("cycle", "everywhere", "not_supported", "gate_seeds", {"value": 2, "threshold": 3}),
        ],
    )
    return tmp_path / "store"


def test_the_newest_verdict_by_name_and_by_file(sharelm, answered, study_file):
    for argument in ("quickstart", study_file()):
        done = sharelm("verdict", argument, "--store", answered)
        assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, LINES, "")


def test_a_file_that_is_not_what_was_recorded_is_said(sharelm, answered, study_file):
    grown = study_file(("seeds = [0, 1]", "seeds = [0, 1, 2]"), name="grown.toml")
    done = sharelm("verdict", grown, "--store", answered)
    assert done.stdout.splitlines() == LINES
    assert "grown.toml is not what was last recorded" in done.stderr


def test_a_gate_that_is_met_names_the_variants(sharelm, answered):
    done = sharelm("verdict", "quickstart", "--gate", "proof_of_concept", SHARELM_STORE=str(answered))
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "Gate proof_of_concept is met by cycle."


def test_a_gate_that_is_not_met_is_exit_3_and_what_lacks(sharelm, answered):
    done = sharelm("verdict", "quickstart", "--gate", "everywhere", "--json", "--store", answered)
    assert done.returncode == 3
    assert json.loads(done.stdout)["headline"] == LINES
    assert done.stderr.count("\n") == 1
    for words in ("gate everywhere", "albert lacks: Accuracy is not shown", "cycle lacks: 2 of the 3 seeds"):
        assert words in done.stderr


def test_unknown_gates_and_unfinished_studies(sharelm, answered, tmp_path, study_file):
    done = sharelm("verdict", "quickstart", "--gate", "everywher", "--store", answered)
    assert done.returncode == 2
    assert "did you mean 'everywhere'" in done.stderr
    unfinished = open_store(str(tmp_path / "other"))
    record_study(unfinished, load_study(study_file()), "study.toml")
    done = sharelm("verdict", "quickstart", "--store", tmp_path / "other")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not finished" in done.stderr


def test_the_newest_report_is_exported(sharelm, answered, tmp_path):
    done = sharelm("report", "quickstart", "--store", answered, "--out", "a/b")
    assert done.returncode == 0
    assert sorted(done.stdout.split()) == ["a/b/report.html", "a/b/report.json", "a/b/report.md"]
    assert (tmp_path / "a/b/report.md").read_text() == NEW
    assert (tmp_path / "a/b/report.html").read_text(encoding="utf-8") == "<p>é</p>"
    (tmp_path / "taken").write_text("a file")
    done = sharelm("report", "quickstart", "--store", answered, "--out", "taken")
    assert done.returncode == 2
    assert "--out = 'taken'" in done.stderr


def test_an_altered_report_is_not_exported(sharelm, answered, tmp_path):
    for page in answered.glob(f"reports/*/step={NEW}/*report.html"):
        page.write_bytes(b"<p>e</p>")
    done = sharelm("report", "quickstart", "--store", answered, "--out", "out")
    assert done.returncode == 1
    assert "report.html" in done.stderr
    assert not (tmp_path / "out" / "report.html").exists()


def test_tables_are_listed(sharelm, answered):
    listed = {row["table"]: row for row in json.loads(sharelm("tables", "--json", "--store", answered).stdout)}
    assert {table: (row["steps"], row["rows"]) for table, row in listed.items()} == {
        "trials": (2, 2),
        "comparisons": (2, 2),
        "verdicts": (2, 5),
        "reports": (2, 0),
    }
    text = sharelm("tables", "--store", answered, "--study", "quickstart").stdout
    assert "verdicts" in text
    assert "scores" not in text


def test_rows_as_json_csv_text_and_files(sharelm, answered):
    at = ("trials", "--store", answered)
    values = json.loads(sharelm("tables", *at, "--json").stdout)
    assert [(row["trial"], row["final_loss_nats"]) for row in values] == [("albert.s0", 3.5), ("albert.s1", None)]
    assert values[0]["study"] == "quickstart"
    table = list(csv.DictReader(io.StringIO(sharelm("tables", *at, "--csv").stdout)))
    assert [json.loads(row["attention_schedule"]) for row in table] == [[0, 0, 0, 0]] * 2
    assert "albert.s1" in sharelm("tables", *at).stdout
    files = sharelm("tables", *at, "--files").stdout.split()
    found = duckdb.execute("select trial from read_parquet(?) order by trial", [files]).fetchall()
    assert found == [("albert.s0",), ("albert.s1",)]


def test_plan_says_which_trials_are_there(sharelm, answered, study_file):
    done = sharelm("plan", study_file(), "--store", answered)
    assert done.stdout.splitlines()[-1].endswith("albert.s0, albert.s1.")
