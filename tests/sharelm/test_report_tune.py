"""Learning rates in the report: what was tried, what was chosen, and what that does not show."""

import json

import pyarrow as pa
import pytest

from sharelm.report import build
from sharelm.study import Measured, Tried, expand, tuning
from sharelm.study.proxies import tuning_rows
from sharelm.tables import TABLES
from tests.sharelm.report_helpers import Page, reported, study_of
from tests.sharelm.synthetic import FACTS, headline_of, synthetic_tables

RATES = [1e-3, 3e-3, 1e-2]
LOSSES = {"albert": [None, None, None], "cycle": [3.5, 3.25, 3.125], "independent-L1": [3.5, 3.25, None]}


@pytest.fixture(scope="module")
def made():
    training = study_of().tree()["training"]
    tune = {"learning_rates": RATES, "tokens": 40_960}
    study = study_of(training={**training, "tune": tune})
    tried = {
        arm.model: [
            Tried(rate, loss, 1.0) for rate, loss in zip(RATES, LOSSES.get(arm.name, [3.5, 3.0, 3.25]), strict=True)
        ]
        for arm in expand(study).arms
    }
    plan = expand(study, Measured(tunings={model: tuning("grid", those) for model, those in tried.items()}))
    tables = synthetic_tables(plan)
    tables["tunings"] = pa.Table.from_pylist(tuning_rows(plan), schema=TABLES["tunings"])
    return study, build(plan, tables, headline_of(plan, tables), FACTS)


def test_every_rate_of_every_arm_is_shown_and_the_choice_marked(made):
    study, report = made
    table = Page(report.html).tables["Learning rates that were tried, and the loss of their proxies in nats"]
    assert table[0][1:5] == ["0.001", "0.003", "0.01", "Chosen"]
    shown = {row[0]: row[1:] for row in table[1:]}
    assert list(shown) == [arm.name for arm in expand(study).arms]
    assert shown["albert"] == ["diverged"] * 3 + ["0.001", "? at the edge of what was tried"]
    assert shown["cycle"] == ["3.5000", "3.2500", "✓ 3.1250", "0.01", "? at the edge of what was tried"]
    assert shown["independent"] == ["3.5000", "✓ 3.0000", "3.2500", "0.003", "✓ inside"]
    assert "| independent-L1 | 3.5000 | ✓ 3.2500 | diverged | 0.003 | ✓ inside |" in report.markdown
    assert len(json.loads(report.json)["tunings"]) == len(RATES) * len(shown)
    assert "training.learning_rate" in Page(report.html).sections["settings"].partition("What all arms share")[0]


def test_what_short_trainings_do_not_show_is_said(made):
    _, report = made
    said = [caveat["sentence"] for caveat in json.loads(report.json)["not_shown"]]
    (rates,) = [sentence for sentence in said if sentence.startswith("Learning rates ")]
    assert "among 0.001, 0.003, 0.01 on proxies of 41.0 k tokens (20 % of the training) with one seed" in rates
    edges = [sentence.partition(" lies at the edge")[0] for sentence in said if "lies at the edge" in sentence]
    assert edges == ["The learning rate 0.001 of albert", "The learning rate 0.01 of cycle"]
    assert [s.partition(":")[0] for s in said if "Every proxy" in s] == ["Every proxy of albert diverged"]


def test_a_study_that_tunes_none_says_so():
    report, _, _ = reported(study_of())
    (rates,) = [c for c in json.loads(report.json)["not_shown"] if c["sentence"].startswith("Learning rates ")]
    assert rates["sentence"].startswith("Learning rates were not tuned per arm")
    assert "Learning rates" not in Page(report.html).sections["curves"]
    assert "## Learning rates" not in report.markdown
