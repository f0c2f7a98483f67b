"""The catalogue has words for all that a verdict can find, and they are what a reader meets."""

import importlib
import json
import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.evidence import GateNotMet, check_gate
from sharelm.report import build
from sharelm.statistics.worth import worth
from sharelm.study import expand
from sharelm.study.load import study_from_tree
from sharelm.tables import TABLES
from sharelm.tables.rows import Finding, SharingWorthRow, rows_of
from sharelm.words import headline, lack, say, sentence, spoken, why
from sharelm.words.formats import percent_beside
from tests.sharelm import synthetic
from tests.sharelm.report_helpers import study_of as reported_study
from tests.sharelm.test_statistics_worth import TIED, planted, scores
from tests.sharelm.test_statistics_worth import study_of as worth_study
from tests.sharelm.verdict_helpers import LOSSES, STUDY, compared, served, study_of, trained, verdict

saying = importlib.import_module("sharelm.words.say")  # the module, which the package hides behind its function
BOTH = study_of(("albert", "cycle"), workloads=("chat", "batch"))


def variants_of(*blocks):
    tree = [{"name": f"cycle{i}", "scheme": "cycle", "blocks": number} for i, number in enumerate(blocks)]
    return study_from_tree(STUDY.tree() | {"variant": tree}, "test")


MANY = variants_of(1, 2, 1, 2)


def everything_said(study, found):
    """All that a reader is told of these verdicts."""
    rows = rows_of(Finding, found)
    told = [sentence(row) for row in rows] + [lack(row) for row in rows if row.outcome == "not_supported"]
    told += [line.text for line in headline(study, found)]
    for stage in ("proof_of_concept", "everywhere"):
        try:
            check_gate({"study": "s", "verdicts": [spoken(row) for row in rows], "failed": []}, stage)
        except GateNotMet as error:
            told.append(str(error))
    return told


def repeated(study, workloads, most=2.3):
    """Costs whose repeats, one a seed, differ; the most that 1.05 of the twin's allows is 2.1."""
    rows = []
    for seed, cost in enumerate((1.9, 2.0, most)):
        costs = served(study, workloads, cost_per_1m_tokens=cost)
        rows += [row | {"seed": seed} for row in costs.to_pylist()]
    return pa.Table.from_pylist(rows, schema=TABLES["costs"])


def one_document(study):
    none = {"documents": 1, "interval_low": None, "interval_high": None, "outcome": "not_shown"}
    return pa.Table.from_pylist([row | none for row in compared(study).to_pylist()], schema=TABLES["comparisons"])


def at_the_margin(study):
    rows = [row | {"margin": 0.0301} for row in compared(study, depth="not_shown").to_pylist()]
    return pa.Table.from_pylist(rows, schema=TABLES["comparisons"])


def pooled(study):
    """Losses that are equivalent, by a spread over seeds that only the other arms make narrow enough."""
    more = {"standard_error_seeds_alone": 0.02, "p_equivalent": 0.001}
    rows = [row | more if row["margin"] == 0.05 else row for row in compared(study).to_pylist()]
    return pa.Table.from_pylist(rows, schema=TABLES["comparisons"])


def spread(study):
    """Memory that is beyond its limit, by a figure of each variant's own."""
    rows = [
        row | {"peak_bytes": 900 + 10 * int(row["arm"][-1])} if row["arm"].startswith("cycle") else row
        for row in served(study).to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["costs"])


def free(study):
    rows = [row | {"cost_per_1m_tokens": 0.0} for row in served(study).to_pylist()]
    return pa.Table.from_pylist(rows, schema=TABLES["costs"])


def fewer_seeds(study):
    rows = [row | {"seeds": 1} if row["variant"] == "albert" else row for row in compared(study).to_pylist()]
    return pa.Table.from_pylist(rows, schema=TABLES["comparisons"])


def unexplained(study):
    rows = trained(study, diverged=[("cycle", 0)]).to_pylist()
    return pa.Table.from_pylist([row | {"error": None} for row in rows], schema=TABLES["trials"])


def all_of(study, value):
    return {f"{variant.name}_depth": value for variant in study.variant}


CHAT, TWO = ("chat",), ("chat", "batch")
NOTHING = {"costs": TABLES["costs"].empty_table(), "trials": TABLES["trials"].empty_table()}
SAME = variants_of(2, 2, 2, 2, 2)
PLANTED = [
    *((STUDY, {"comparisons": compared(depth=o, task=t)}) for o in (*LOSSES, None) for t in ("worse", "not_shown")),
    *((STUDY, {"comparisons": compared(depth=o, seeds=1)}) for o in LOSSES),
    *((STUDY, {"comparisons": compared(parameters=o)}) for o in LOSSES),
    (STUDY, {"comparisons": compared(error=-0.03)}),
    (STUDY, {"comparisons": compared(seeds=2)}),
    (STUDY, {"comparisons": pooled(STUDY)}),
    (STUDY, {"comparisons": at_the_margin(STUDY)}),
    (STUDY, {"comparisons": one_document(STUDY)}),
    (STUDY, {"trials": trained(diverged=[("cycle", 0), ("cycle", 2)])}),
    (STUDY, {"trials": unexplained(STUDY)}),
    (STUDY, {"trials": trained(tokens=4999)}),
    (STUDY, {"trials": trained(loss_spikes=1)}),
    (STUDY, {"trials": trained(loss_spikes=None)}),
    (STUDY, {"trials": trained(seeds=(0, 2))}),
    (STUDY, {"trials": trained(training_cost=None)}),
    (STUDY, {"costs": served(cost_per_1m_tokens=0.0)}),
    (STUDY, {"costs": repeated(STUDY, CHAT)}),
    (STUDY, {"costs": repeated(STUDY, CHAT, most=2.05)}),
    (STUDY, {"costs": free(STUDY)}),
    (STUDY, NOTHING),
    (BOTH, {"costs": served(BOTH, TWO)}),
    (BOTH, {"costs": served(BOTH, CHAT), "comparisons": compared(BOTH, albert_depth="worse", cycle_depth="worse")}),
    (BOTH, {"costs": repeated(BOTH, TWO, most=2.05)}),
    (BOTH, {"costs": repeated(BOTH, TWO), "comparisons": fewer_seeds(BOTH)}),
    (BOTH, {"costs": served(BOTH, TWO), "comparisons": compared(BOTH, seeds=1)}),
    (MANY, {"comparisons": compared(MANY, **all_of(MANY, "not_shown")), "costs": spread(MANY)}),
    (MANY, {"comparisons": compared(MANY, **all_of(MANY, "worse"))}),
    (MANY, {"trials": trained(MANY, loss_spikes=1)}),
    (MANY, {}),
    (SAME, {"costs": served(SAME, peak_bytes=900)}),
    (SAME, {"comparisons": compared(SAME, **all_of(SAME, "not_shown") | {"cycle0_depth": "worse"})}),
]


def test_every_entry_is_said_of_some_verdict_and_every_code_has_an_entry(monkeypatch):
    """A code without words and a slot without a figure raise; an entry that nothing asks for is idle."""
    used, real = set(), saying.say

    def noted(place, code, figures):
        used.add((place, code))
        return real(place, code, figures)

    for module in ("sharelm.words.say", "sharelm.words.headline", "cluster.evidence"):
        monkeypatch.setattr(importlib.import_module(module), "say", noted)
    for study, evidence in PLANTED:
        for told in everything_said(study, verdict(study, **evidence)):
            assert re.search(r"[{}]|None|not_|_ratio|_cost", told) is None, told
            assert told.endswith(".")
    older = Finding(**dict.fromkeys(TABLES["verdicts"].names))
    assert sentence(older) == lack(older) == real("unknown", "older", {})
    elsewhere = ["list", "name", "same", "quantity", "caveat", "caveat_group", "scope", "condition", "worth"]
    elsewhere += ["night", "night_summary", "night_metric"]  # `test_nightly.py` gives them
    entries = {(place, code) for place, codes in saying.catalogue().items() for code in codes if place not in elsewhere}
    assert entries - used == set()


def test_every_reason_why_a_figure_is_missing_has_its_words_and_is_given():
    used, core = set(), {"name": "shared", "scheme": "prelude_core_coda", "prelude": 2, "core": 1, "coda": 2}
    ladder, short, looped = worth_study(), worth_study(ladder=()), worth_study(core)
    tied = worth_study(TIED)
    large = worth_study({"name": "shared", "scheme": "relaxed", "blocks": 4, "rank": 16})
    alone, without = planted(short, 5), planted(short, 5)
    del alone["independent-L4"], without["shared"]
    for study, evidence in (
        *((ladder, scores(planted(ladder, 5) | {"shared": loss})) for loss in (1.0, 9.0)),
        (ladder, scores(planted(ladder, 5) | {"independent-L3": 2.0, "shared": 2.1})),
        (ladder, scores(planted(ladder, 5), documents=1)),
        (looped, scores(planted(looped, 3.5))),
        *((study, scores(planted(study, 5))) for study in (tied, large)),
        (short, scores(planted(short, 4.1), noise=0.03)),
        *((short, scores(losses)) for losses in (alone, without)),
    ):
        for row in rows_of(SharingWorthRow, worth(expand(study), evidence)):
            missing = None in (row.value, row.interval_low, row.interval_high)
            assert (row.code is None) <= (not missing), row
            assert all(re.fullmatch(r"\w*", text) for text in texts_in(row.figures)), row
            if row.code is not None:
                assert re.fullmatch(r"[a-z][^{}]+[^.{}]", why(row)), why(row)
                assert spoken(row)["reason"] == why(row)
                used.add(row.code)
    assert used == set(saying.catalogue()["worth"])


leaves = st.fixed_dictionaries(
    {
        "depth": st.sampled_from([*LOSSES, None]),
        "parameters": st.sampled_from([*LOSSES, None]),
        "task": st.sampled_from(["better", "not_worse", "worse", "not_shown"]),
        "seeds": st.integers(1, 4),
        "error": st.floats(-0.5, 0.5),
    }
)
figure = st.none() | st.floats(0, 1e12) | st.sampled_from([0.0, 800.0, 700.0])


@settings(max_examples=60, deadline=None)
@given(
    leaves,
    st.fixed_dictionaries({"peak_bytes": st.none() | st.integers(0, 2**40), "cost_per_1m_tokens": figure}),
    st.fixed_dictionaries(
        {
            "training_cost": figure,
            "weights_bytes": st.none() | st.integers(0, 2**40),
            "loss_spikes": st.none() | st.integers(0, 10**6),
            "tokens": st.integers(0, 10**13),
        }
    ),
    st.sets(st.sampled_from([0, 1, 2])),
)
def test_whatever_is_found_can_be_said_and_holds_no_sentence(losses, costs, trials, diverged):
    found = verdict(
        comparisons=compared(**losses),
        costs=served(**costs),
        trials=trained(diverged=[("cycle", seed) for seed in diverged], **trials),
    )
    assert all(told.endswith(".") and "{" not in told for told in everything_said(STUDY, found))
    for row in found.to_pylist():
        texts = [value for name, value in row.items() if isinstance(value, str) and name != "figures_json"]
        for text in [*texts, *texts_in(json.loads(row["figures_json"]))]:
            assert re.fullmatch(r"[\w.-]*", text), text


def texts_in(figures):
    """Every text in a tree of figures but what a trial's error says, which is evidence."""
    if isinstance(figures, dict):
        figures = [value for name, value in figures.items() if name != "error"]
    if isinstance(figures, list):
        return [text for value in figures for text in texts_in(value)]
    return [figures] if isinstance(figures, str) else []


def test_report_headline_and_gate_say_what_the_catalogue_has(monkeypatch):
    marked = {place: dict(codes) for place, codes in saying.catalogue().items()}
    for place in ("axis", "kpi", "stage", "lacks", "line", "gate"):
        for code, entry in marked[place].items():
            if isinstance(entry, str):
                marked[place][code] = f"«{place}.{code}» {entry}"
    monkeypatch.setattr(saying, "catalogue", lambda: marked)
    study = reported_study()
    tables = synthetic.synthetic_tables(study)
    lines = headline(study, tables["verdicts"])
    report = build(expand(study), tables, lines, synthetic.FACTS)
    assert "«line.loss»" in lines[1].text
    assert "«line.ratios»" in lines[2].text
    for page in (report.html, report.markdown):
        assert "«kpi.loss\\_worse»" in page or "«kpi.loss_worse»" in page
        assert "«lacks.gate_tokens»" in page
        assert "«line.ratios»" in page
    assert "«axis.loss_" in report.html
    rows = json.loads(report.json)["verdicts"]
    assert {row["sentence"][: len(row["code"]) + len(row["kind"]) + 3] for row in rows} == {
        f"«{row['kind']}.{row['code']}»" for row in rows
    }
    with pytest.raises(GateNotMet, match=r"«gate.not_met» gate everywhere.*albert lacks: «stage.gate_waits»"):
        check_gate({"study": "quickstart", "verdicts": rows, "failed": []}, "everywhere")


def test_a_plural_is_an_entry_of_its_own():
    figures = {"savings": ["a"], "margin": 0.05}
    assert "a keeps" in say("answer", "kept", figures | {"count": 1})
    assert "a, b and c keep " in say("answer", "kept", {**figures, "savings": ["a", "b", "c"], "count": 3})


def test_the_names_cover_what_a_study_can_hold():
    names = saying.catalogue()["name"]
    rows = [row for study, evidence in PLANTED for row in verdict(study, **evidence).to_pylist()]
    assert {row["name"] for row in rows} | {"compute", "memory", "time"} <= set(names)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6) | st.sampled_from([0.7, 0.8, 1.05]))
def test_a_percentage_never_hides_that_a_limit_is_passed(ratio, most):
    shown = float(percent_beside(ratio, str(most)).replace(",", "")) / 100
    assert (shown > most) == (ratio > most) or shown == pytest.approx(most, rel=1e-9)
