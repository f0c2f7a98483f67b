"""What a study does not show is codes and figures, and the catalogue has a sentence for each."""

import dataclasses
import importlib
import json
import re
from types import SimpleNamespace

import pytest

from sharelm.report.build import _gate
from sharelm.report.caveats import axis_words, caveats, scope
from sharelm.report.summary import summarise
from sharelm.study import Plan, Speeds, expand
from sharelm.study.load import study_from_tree
from sharelm.study.thresholds import STAGES
from sharelm.tables.rows import TuningRow
from sharelm.words import name_of, render
from tests.sharelm import synthetic
from tests.sharelm.report_helpers import study_of
from tests.sharelm.synthetic import FACTS, synthetic_tables
from tests.sharelm.test_report_twins import STUDY as TWINS
from tests.sharelm.test_report_twins import TABLES, changed
from tests.sharelm.test_report_twins import study_of as twins_of

saying = importlib.import_module("sharelm.words.say")
QUICKSTART = study_of()


def asked(**sections):
    return study_from_tree({**QUICKSTART.tree(), **sections}, "test")


def with_rows(tables, table, **values):
    """These tables with columns of all rows of one set; a value may be a function of the row."""
    rows = [
        row | {name: value(row) if callable(value) else value for name, value in values.items()}
        for row in tables[table].to_pylist()
    ]
    return {**tables, table: type(tables[table]).from_pylist(rows, schema=tables[table].schema)}


def passes(*epochs):
    """How often the arms saw the data: these numbers, one arm after the other."""
    return {arm.name: epochs[number % len(epochs)] for number, arm in enumerate(TWINS.arms)}


def planted():
    """Studies, summaries and facts that between them lack everything there is to lack."""
    tree, tables = QUICKSTART.tree(), synthetic_tables(QUICKSTART)

    def of(study, tables=None, facts=FACTS):
        plan = study if isinstance(study, Plan) else expand(study)
        return plan.study, summarise(plan, synthetic_tables(plan) if tables is None else tables), facts

    yield of(QUICKSTART, tables)
    for recorded in (None, "0123456789abcdef0123"):
        yield of(QUICKSTART, tables, FACTS | {"rule": {"recorded": recorded, "used": "fedcba9876543210fedc"}})
    yield of(study_of(seeds=(3,)))
    yield of(QUICKSTART.model_copy(update={"training": QUICKSTART.training.model_copy(update={"fast": True})}))
    yield of(QUICKSTART.decided(trials_per_gpu=2))
    missing = frozenset({"cycle.s1", "independent-L2.s0"})
    lacking = synthetic_tables(QUICKSTART, diverged={"albert.s0": "loss is nan"}, missing=missing, costs=False)
    yield of(QUICKSTART, lacking, FACTS | {"missing": [{"step": "trial cycle.s1", "reason": "a worker was killed"}]})
    yield of(QUICKSTART, with_rows(lacking, "trials", error=None))
    yield of(QUICKSTART, {**tables, "scores": tables["scores"].slice(0, 0)})
    yield of(QUICKSTART, {**tables, "comparisons": tables["comparisons"].slice(0, 0)})
    for domain in ("all", "prose"):
        for low in (None, -0.1):
            open_ends = {"domain": domain, "interval_low": low, "interval_high": 0.1, "outcome": "not_shown"}
            yield of(QUICKSTART, with_rows(tables, "comparisons", margin=0.05, **open_ends))
    yield of(QUICKSTART, tables, {"chance": {"last_word": 0.9}})
    chosen = {"name": "chosen", "kind": "multiple_choice", "file": "questions.jsonl"}
    yield of(asked(evaluation={**tree["evaluation"], "task": [*tree["evaluation"]["task"], chosen]}))
    yield of(asked(cost={**tree["cost"], "price_per_hour": 0.0}))
    yield of(TWINS, changed("trials", "cycle", learning_rate_halvings=2))
    yield of(TWINS, changed("trials", "cycle", training_seconds=99.0))
    yield of(TWINS, changed("costs", "cycle", device="NVIDIA H100"))
    yield of(twins_of(speeds=Speeds(10_000.0, 100.0)))
    for seen in (passes(2.0), passes(2.0, 3.0, 4.0), passes(0.5, 2.0), passes(0.5, 2.0, 3.0)):
        yield of(TWINS, with_rows(TABLES, "trials", epochs=lambda row, seen=seen: seen[row["arm"]]))
    yield of(TWINS, changed("trials", "cycle", epochs=2.5))
    tuned = asked(training={**tree["training"], "tune": {"learning_rates": [0.001, 0.003, 0.01], "tokens": 40_960}})
    _, summary, facts = of(QUICKSTART, tables)
    proxy = {"learning_rate": 0.01, "tokens": 40_960, "seed": 0, "loss_nats": 3.0, "training_seconds": 1.0}
    rate = proxy | {"chosen_learning_rate": 0.01, "at_edge": True}
    tunings = [TuningRow(arm=arm, status=status, **rate) for arm, status in (("albert", "diverged"), ("cycle", "done"))]
    yield tuned, dataclasses.replace(summary, tunings=tunings), facts


def apart(monkeypatch):
    real = synthetic.seeded
    with monkeypatch.context() as patch:
        patch.setattr(
            synthetic, "seeded", lambda trial: real(trial) + 0.5 * (trial.arm.name == "cycle" and trial.seed == 1)
        )
        return QUICKSTART, summarise(expand(QUICKSTART), synthetic_tables(QUICKSTART)), FACTS


def test_every_caveat_can_be_said_and_holds_no_sentence(monkeypatch):
    used = set()
    for study, summary, facts in [*planted(), apart(monkeypatch)]:
        groups = caveats(study, summary, facts)
        for found in [*scope(study, summary), *(caveat for _, those in groups for caveat in those)]:
            told = render(found)
            assert told.endswith(".")
            assert re.search(r"[{}]|None", told) is None, told
            inner = found["figures"].get("trials", [])
            used |= {(part["kind"], part["code"]) for part in [found, *inner]}
            of_others = {"error", "reason", "step", "devices", "trials"}
            figures = {name: value for name, value in found["figures"].items() if name not in of_others}
            for text in re.findall(r'"([^"]*)"', json.dumps(figures)):
                assert " " not in text, text
        assert all(name_of(group, "caveat_group") for group, _ in groups)
    entries = {(place, code) for place in ("caveat", "scope") for code in saying.catalogue()[place]}
    assert entries - used == set()


def test_every_axis_has_its_names_and_a_gate_says_what_it_asks_for():
    for axis in ("depth", "parameters", "compute", "memory", "time"):
        assert axis_words(axis).startswith("the same ")
        assert axis_words(axis) == f"the same {name_of(axis, 'quantity')}"
    gate = SimpleNamespace(kpis=["accuracy", "inference_cost"], seeds=3, training_tokens=5000, axes=["memory"])
    study = SimpleNamespace(rollout=SimpleNamespace(**dict.fromkeys(STAGES, gate)))
    assert _gate(study, STAGES[0]) == (
        "Asks for accuracy, inference cost; 3 seeds; 5,000 training tokens; no loss at the same serving memory."
    )


@pytest.mark.parametrize("place", ["same", "quantity"])
def test_names_of_axes_stand_for_the_same_axes(place):
    assert set(saying.catalogue()[place]) == {"depth", "parameters", "compute", "memory", "time"}
