"""Nights of synthetic tables: planted slowdowns, losses, spikes, devices and accepted baselines are told as such."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from sharelm.nightly.differences import differences, last_good
from sharelm.nightly.history import History, Night, night_rows
from sharelm.nightly.measures import MEASURES, figures
from sharelm.nightly.page import MARKS, trends_page
from sharelm.nightly.quality import quality_figures
from sharelm.study import expand
from sharelm.tables.rows import BaselineRow, HistoryRow, TrialRow, rows_of, table_of
from sharelm.words.nightly import change_line, could_not, night_lines, night_summary
from sharelm.words.say import catalogue
from tests.sharelm.report_helpers import study_of
from tests.sharelm.synthetic import DEVICE, synthetic_tables

STUDY = study_of((0, 1))
PLAN = expand(STUDY)
TABLES = synthetic_tables(STUDY, steps=1)
SLOWER = {measure.name: 1 if measure.worse == "higher" else -1 for measure in MEASURES}


def scaled(tables, factor, names=tuple(SLOWER)):
    """The tables with these measures worse by this factor (better below 1)."""
    found = dict(tables)
    for measure in MEASURES:
        if measure.name in names:
            table = found[measure.table]
            values = table[measure.name].to_numpy() * factor ** SLOWER[measure.name]
            at, kind = table.schema.get_field_index(measure.name), table.schema.field(measure.name).type
            found[measure.table] = table.set_column(at, measure.name, pa.array(values).cast(kind, safe=False))
    return found


def lossier(tables, arm, nats):
    """The tables with this arm's held-out loss so much higher, by as much in every document."""
    scores = tables["scores"]
    more = pc.if_else(pc.and_(pc.equal(scores["arm"], arm), pc.equal(scores["task"], "held_out")), nats, 0.0)
    nll = pc.add(scores["nll_nats"], pc.multiply(more, pc.cast(scores["tokens"], pa.float64())))
    at = scores.schema.get_field_index("nll_nats")
    return {**tables, "scores": scores.set_column(at, "nll_nats", nll)}


class Nights:
    """A study's nights, one after another."""

    def __init__(self):
        self.rows, self.accepted, self.tables = [], [], {}

    def add(self, tables, device=DEVICE, wall=100.0, code="c0de"):
        night = f"2026-01-{len(self.tables) + 1:02}"
        self.tables[night] = tables
        history = History(self.rows, self.accepted)
        found = night_rows(
            Night(night, PLAN, tables, wall, device, code), history, lambda then: self.tables[then]["scores"]
        )
        self.rows += found
        return {row.key: row for row in found}

    def usual(self, nights, spread=0.01, seed=0):
        rng = np.random.default_rng(seed)
        for _ in range(nights):
            found = self.add(scaled(TABLES, float(np.exp(rng.normal(0, spread)))))
        return found


def test_a_night_has_every_metric_of_every_arm():
    found = Nights().add(TABLES)
    arms = [arm.name for arm in PLAN.arms]
    assert {row.metric for row in found.values()} == {
        *SLOWER,
        "wall_seconds",
        "loss_nats_per_token",
        "bits_per_byte",
        "accuracy",
    }
    for arm in arms:
        assert f"tokens_per_second:{arm}" in found
        assert f"loss_nats_per_token:{arm}/held_out" in found
    trials = [row for row in TABLES["trials"].to_pylist() if row["arm"] == arms[0]]
    assert found[f"tokens_per_second:{arms[0]}"].value == np.median([row["tokens_per_second"] for row in trials])
    assert {row.unit for row in found.values() if "cost" in row.metric} == {STUDY.cost.currency}
    rows = list(found.values())
    assert rows_of(HistoryRow, table_of(HistoryRow, rows)) == rows


def test_the_first_nights_learn_and_quality_is_compared_from_the_second_on():
    nights = Nights()
    assert {row.state for row in nights.add(TABLES).values()} == {"learning", "well"}
    second = nights.add(TABLES)
    losses = [row for key, row in second.items() if key.startswith("loss_nats")]
    assert all((row.change, row.change_low, row.change_high, row.state) == (0, 0, 0, "well") for row in losses)


def test_nothing_is_worse_on_usual_nights():
    nights = Nights()
    nights.usual(20)
    assert not [row for row in nights.rows if row.state == "worse"]
    assert {row.state for row in nights.rows if row.night == "2026-01-20" and row.relative} <= {"well", "spike"}


def test_a_lasting_slowdown_of_five_per_cent_is_told_and_since_when():
    nights = Nights()
    nights.usual(14, spread=0.004)
    for _ in range(3):
        found = nights.add(scaled(TABLES, 1.05, ["tokens_per_second"]))
    worse = [row for row in found.values() if row.state == "worse"]
    assert {row.metric for row in worse} == {"tokens_per_second"}
    assert {row.since for row in worse} == {"2026-01-15"}
    for row in worse:
        assert row.change_low < -0.03
        assert row.change_high < 0
        assert row.change == pytest.approx(1 / 1.05 - 1, abs=0.01)


def test_one_bad_night_is_a_spike_and_no_alarm():
    nights = Nights()
    nights.usual(14, spread=0.004)
    bad = nights.add(scaled(TABLES, 1.3, ["decode_ms_p50"]))
    assert {row.state for row in bad.values() if row.metric == "decode_ms_p50"} == {"spike"}
    good = nights.add(TABLES)
    assert not [row for row in good.values() if row.state == "worse"]


def test_while_learning_only_a_gross_change_that_lasts_is_told():
    nights = Nights()
    nights.usual(2)
    assert not [row for row in nights.add(scaled(TABLES, 3)).values() if row.state == "worse"]
    worse = [row for row in nights.add(scaled(TABLES, 3)).values() if row.state == "worse"]
    assert {row.metric for row in worse} == set(SLOWER)
    assert {row.since for row in worse} == {"2026-01-03"}
    mild = Nights()
    mild.usual(2)
    for _ in range(3):
        assert not [row for row in mild.add(scaled(TABLES, 1.3)).values() if row.state == "worse"]


def test_a_loss_of_quality_is_told_the_same_night_in_its_arm_alone():
    nights = Nights()
    nights.add(TABLES)
    arm = PLAN.arms[1].name
    found = nights.add(lossier(TABLES, arm, 0.03))
    worse = {key: row for key, row in found.items() if row.state == "worse"}
    assert set(worse) == {f"loss_nats_per_token:{arm}/held_out", f"bits_per_byte:{arm}/held_out"}
    row = worse[f"loss_nats_per_token:{arm}/held_out"]
    assert row.change == pytest.approx(0.03)
    assert row.change_low == pytest.approx(0.03)  # every document and seed lost as much
    nights.add(lossier(TABLES, arm, 0.03))
    assert {row.since for row in nights.rows if row.state == "worse"} == {"2026-01-02"}
    gained = nights.add(lossier(TABLES, arm, -0.03))
    assert gained[f"loss_nats_per_token:{arm}/held_out"].state == "better"


def test_one_seed_needs_more_than_the_margin():
    study = study_of((0,))
    tables = synthetic_tables(study, steps=1)
    arm, plan = PLAN.arms[1].name, expand(study)

    def states(nats):
        history = History(
            night_rows(Night("2026-01-01", plan, tables, 1.0, DEVICE, "c"), History([], []), lambda _: None), []
        )
        night = Night("2026-01-02", plan, lossier(tables, arm, nats), 1.0, DEVICE, "c")
        found = night_rows(night, history, lambda _: tables["scores"])
        return {row.state for row in found if row.key == f"loss_nats_per_token:{arm}/held_out"}

    margin = study.kpi.accuracy.loss_margin_nats
    assert states(0.9 * margin) == {"well"}
    assert states(1.1 * margin) == {"worse"}


@pytest.mark.parametrize(("more", "state"), [((1.0, 1.2), "worse"), ((-1.0, -1.2), "better"), ((0.0, 1.2), "well")])
def test_every_seed_beyond_the_margin_is_a_change_however_far_the_seeds_lie_apart(more, state):
    """By the interval over two seeds, whose t-quantile is 32, none of these differs from zero."""
    scores = TABLES["scores"]
    arm = PLAN.arms[1].name
    nats = pc.if_else(pc.equal(scores["seed"], 0), *more)
    nats = pc.if_else(pc.and_(pc.equal(scores["arm"], arm), pc.equal(scores["task"], "held_out")), nats, 0.0)
    nll = pc.add(scores["nll_nats"], pc.multiply(nats, pc.cast(scores["tokens"], pa.float64())))
    column = scores.schema.get_field_index("nll_nats")
    nights = Nights()
    nights.add(TABLES)
    row = nights.add({**TABLES, "scores": scores.set_column(column, "nll_nats", nll)})[
        f"loss_nats_per_token:{arm}/held_out"
    ]
    assert row.change_low < 0 < row.change_high
    assert row.state == state


def test_another_device_or_other_documents_do_not_compare():
    nights = Nights()
    nights.usual(2)
    found = nights.add(TABLES, device="another")
    assert {row.state for row in found.values() if row.relative} == {"not_comparable"}
    other = {**TABLES, "scores": TABLES["scores"].filter(pc.not_equal(TABLES["scores"]["document"], "document-3"))}
    found = nights.add(other)
    assert {row.state for row in found.values() if not row.relative} == {"not_comparable"}


def test_an_accepted_baseline_begins_anew():
    nights = Nights()
    nights.usual(14, spread=0.004)
    for _ in range(3):
        nights.add(scaled(TABLES, 1.2, ["decode_ms_p50", "prefill_ms_p50"]))
    nights.accepted = [
        BaselineRow(
            metric="decode_ms_p50", night="2026-01-15", reason="why", accepted_by="who", accepted_at="2026-01-18"
        )
    ]
    found = nights.add(scaled(TABLES, 1.2, ["decode_ms_p50", "prefill_ms_p50"]))
    states = {row.metric: row.state for row in found.values()}
    assert (states["decode_ms_p50"], states["prefill_ms_p50"]) == ("learning", "worse")
    assert {row.baseline_night for row in found.values() if row.metric == "decode_ms_p50"} == {"2026-01-15"}


def test_a_night_that_went_on_from_another_try_has_no_wall_time():
    assert "wall_seconds" not in {figure.metric for figure in figures(TABLES, None)}
    assert quality_figures(PLAN, TABLES["scores"])


def test_a_study_whose_hours_cost_nothing_has_nights():
    free = scaled(TABLES, 0.0, ["training_cost", "cost_per_1m_tokens"])
    nights = Nights()
    for _ in range(12):
        found = nights.add(free)
    assert {row.metric for row in found.values()} & {"training_cost", "cost_per_1m_tokens"} == set()
    assert "worse" not in {row.state for row in found.values()}


def test_what_changed_between_two_nights_is_listed():
    nights = Nights()
    nights.usual(2)
    tables = scaled(TABLES, 3)
    trials = [replace(row) for row in rows_of(TrialRow, TABLES["trials"])]
    changed = [
        replace(row, resolved_json=row.resolved_json.replace('"gradient_clipping": 1.0', '"gradient_clipping": 2.0'))
        for row in trials
    ]
    nights.add(tables, code="c0de2")
    nights.add(tables, code="c0de2")
    assert last_good(nights.rows, "2026-01-02") is None
    assert last_good(nights.rows, "2026-01-04") == "2026-01-02"
    then, now = ([row for row in nights.rows if row.night == night] for night in ("2026-01-02", "2026-01-04"))
    now = [replace(row, packages_json=json.dumps({**json.loads(row.packages_json), "torch": "9.9"})) for row in now]
    found = {change.what: (change.then, change.now) for change in differences(then, now, trials, changed)}
    assert found["ShareLM's code"] == ("c0de", "c0de2")
    assert found["torch"][1] == "9.9"
    assert {what for what in found if "clipping" in what} == {
        f"{arm.name}: deepspeed.gradient_clipping" for arm in PLAN.arms
    }
    assert differences(then, then, trials, trials) == []


def test_every_sentence_of_the_catalogue_is_given():
    nights = Nights()
    nights.usual(14, spread=0.004)
    nights.add(scaled(TABLES, 1.3, ["prefill_ms_p50"]))
    for _ in range(3):
        mixed = scaled(scaled(TABLES, 1.2, ["decode_ms_p50"]), 0.8, ["tokens_per_second"])
        nights.add(scaled(mixed, 2 if _ == 2 else 1, ["peak_bytes"]))
    last = [row for row in nights.rows if row.night == "2026-01-18"]
    text = "\n".join(night_lines(last))
    assert "Decoding time of" in text
    assert "is worse since 2026-01-16" in text
    assert "Training speed of" in text
    assert "is better since 2026-01-16" in text
    assert "Serving memory of" in text
    assert "was out of line this night only" in text
    gross = Nights()
    gross.usual(2)
    for _ in range(2):
        rows = gross.add(scaled(TABLES, 3))
    assert "before its night-to-night spread is known" in "\n".join(night_lines(list(rows.values())))
    elsewhere = list(gross.add(TABLES, device="another").values())
    assert "does not compare with the baseline" in "\n".join(night_lines(elsewhere))
    assert night_summary("s", "n", last).endswith("metrics are worse.")
    assert night_summary("s", "n", elsewhere).startswith("Night n of study s: none of")
    assert could_not("s", "n", "no GPU") == "Night n of study s could not run: no GPU"
    assert change_line("torch", "2.12", "2.13").endswith("torch, 2.12 before and 2.13 now.")
    assert {row.metric for row in last} == catalogue()["night_metric"].keys()


def test_the_page_says_the_night_and_shows_every_metric_whole():
    nights = Nights()
    nights.usual(2)
    for _ in range(2):
        nights.add(scaled(TABLES, 3))
    page = trends_page(
        "<b>study</b>", nights.rows, differences(nights.rows[:1], [replace(nights.rows[-1], code="x")], [], [])
    )
    assert "<b>study</b>" not in page
    assert "&lt;b&gt;study" in page
    assert page.count("<figure>") == len({row.key for row in nights.rows})
    for row in (row for row in nights.rows if row.night == "2026-01-04"):
        assert MARKS[row.state][1] in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "ShareLM&#39;s code" in page
