"""The report, verdict and caveats of a study with twins on five axes and a ladder, from planted tables."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pyarrow.compute as pc
import pytest

from sharelm.formats import si, significant
from sharelm.report import build
from sharelm.study import Measured, Speeds, expand
from sharelm.study.load import study_from_tree
from sharelm.tables.messages import as_json
from sharelm.tables.rows import Finding, SharingWorthRow, rows_of, table_of
from sharelm.verdict import decide
from sharelm.words import spoken
from tests.sharelm.small import TREE
from tests.sharelm.synthetic import FACTS, headline_of, synthetic_tables

AXES = ["depth", "parameters", "compute", "memory", "time"]
WORDS = ["the same depth", "the same stored parameters", "the same training FLOPs", "the same serving memory"]


MEASURED = Speeds(10_000.0, 20_000.0)


def study_of(gate=("parameters",), speeds=MEASURED):
    albert, everywhere = {"name": "albert", "scheme": "albert"}, TREE["rollout"]["everywhere"]
    tree = {
        **TREE,
        "study": {"name": "small", "seeds": [0, 1]},
        "variant": [albert, *TREE["variant"]],
        "twins": {"axes": AXES, "ladder": [3]},
        "training": {**TREE["training"], "tokens": 128 * 100},
        "rollout": {**TREE["rollout"], "everywhere": {**everywhere, "axes": list(gate)}},
    }
    study = study_from_tree(tree, "test")
    return expand(study, Measured({variant.name: speeds for variant in study.variant}))


STUDY = study_of()
TABLES = synthetic_tables(STUDY)


def report(tables=TABLES, facts=FACTS):
    return build(STUDY, tables, headline_of(STUDY, tables), facts)


def not_shown(tables=TABLES, facts=FACTS):
    return [caveat["sentence"] for caveat in json.loads(report(tables, facts).json)["not_shown"]]


class Text(HTMLParser):
    """The cells of every table row, and all text."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.text, self._cell = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, _):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._cell = tag in ("td", "th") or (self._cell and tag in ("span", "strong", "code"))

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data


def twin_of(variant, axis):
    return next(pair.twin for pair in STUDY.comparisons if (pair.variant, pair.axis) == (variant, axis))


def changed(table, arm, **values):
    """The tables with columns of one arm's rows set."""
    rows = TABLES[table].to_pylist()
    rows = [row | values if row["arm"] == arm else row for row in rows]
    return {**TABLES, table: type(TABLES[table]).from_pylist(rows, schema=TABLES[table].schema)}


def test_every_axis_has_its_verdict_and_its_place_on_the_page():
    verdicts = [row for row in TABLES["verdicts"].to_pylist() if row["kind"] == "axis"]
    assert [(row["variant"], row["name"]) for row in verdicts] == [
        (variant, axis) for variant in ("albert", "cycle") for axis in AXES
    ]
    assert len(headline_of(STUDY, TABLES)) == 5
    done = report()
    page = Text(done.html)
    for words in [*WORDS, "the same training time"]:
        assert f"At {words}" in page.text
        assert f"Loss beside the twin at {words}" in done.markdown
    for pair in STUDY.comparisons:
        assert [pair.variant, pair.twin] in [row[:2] for row in page.rows]
    # in fp32 the weights, and of 4 depths 2 x 2 heads of 8 for 2 requests of 12 tokens
    memory = next(pair for pair in STUDY.comparisons if (pair.variant, pair.axis) == ("cycle", "memory"))
    stored = next(arm for arm in STUDY.arms if arm.name == "cycle").footprint.stored_parameters
    assert memory.target == 4 * (stored + 4 * 2 * 2 * 8 * 2 * 12)
    assert ["cycle", memory.twin, si(memory.target, "B", digits=5)] in [row[:3] for row in page.rows]


def test_an_axis_that_is_more_than_a_hundredth_off_is_flagged():
    speeds = Speeds(10_000.0, 100.0)  # too slow to be trained past the warm-up in the variant's time
    study = study_of(speeds=speeds)
    tables = synthetic_tables(study)
    rows = [row for row in rows_of(Finding, tables["verdicts"]) if row.name == "time"]
    assert len(rows) == 2
    for row in rows:
        assert "off on this axis, more than 1 %" in spoken(row)["sentence"]
    caveats = json.loads(build(study, tables, headline_of(study, tables), FACTS).json)["not_shown"]
    assert sum("not equal in training time: off by" in caveat["sentence"] for caveat in caveats) == 2


@pytest.mark.parametrize("axis", ["compute", "memory", "time"])
def test_a_gate_may_ask_for_any_axis(axis):
    study = study_of(gate=(axis,))
    assert study.study.rollout.everywhere.axes == [axis]
    found = decide(study, TABLES["comparisons"], TABLES["trials"], TABLES["costs"])
    assert found.num_rows == TABLES["verdicts"].num_rows


def test_the_arms_say_what_they_saw_and_how_often():
    page = Text(report().html)
    twin = next(arm for arm in STUDY.arms if arm.name == twin_of("albert", "compute"))
    (row,) = [row for row in page.rows if row[0] == twin.name and len(row) == 5]
    assert twin.tokens > STUDY.study.training.tokens
    # of 812,345 packed tokens
    assert row[1:] == ["twin", si(twin.tokens), si(twin.training_flops), significant(twin.tokens / 812_345)]
    assert not [sentence for sentence in not_shown() if "Data repeats" in sentence]


def test_repeated_data_is_said_and_for_whom():
    twin = twin_of("albert", "compute")
    said = not_shown(changed("trials", twin, epochs=2.5))
    (repeats,) = [sentence for sentence in said if "Data repeats" in sentence]
    assert f"{twin} saw the corpora 2.50 times" in repeats
    (compared,) = [sentence for sentence in said if "worth less than fresh" in sentence]
    assert f"At the same training FLOPs albert saw the corpora {significant(12_800 / 812_345)} times" in compared
    assert f"its twin {twin} 2.50 times" in compared


def test_trials_that_took_longer_than_the_speeds_promised_are_told():
    twin = twin_of("cycle", "time")
    seconds = {row["arm"]: row["training_seconds"] for row in TABLES["trials"].to_pylist()}["cycle"]
    even = not_shown(changed("trials", twin, training_seconds=seconds))
    assert not [s for s in even if "same training time as cycle" in s and "speeds measured beforehand" in s]
    late = not_shown(changed("trials", twin, training_seconds=1.2 * seconds))
    (told,) = [s for s in late if "same training time as cycle" in s and "speeds measured beforehand" in s]
    assert told.endswith("off by 20 %.")


def test_trials_that_halved_their_rate_are_told():
    told = [s for s in not_shown(changed("trials", "cycle", learning_rate_halvings=2)) if "halved their" in s]
    seeds = STUDY.study.study.seeds
    assert [f"cycle.s{seed} (2 of at most 3)" in told[0] for seed in seeds] == [True] * len(seeds)
    assert told[0].endswith("They and what they are compared with are not matched in learning rate.")
    assert not [s for s in not_shown() if "halved their" in s]


def test_what_a_loop_is_worth_stands_on_the_page():
    rows = {(row["variant"], row["quantity"]): row for row in TABLES["sharing_worth"].to_pylist()}
    done = report()
    page = Text(done.html)
    for variant in ("albert", "cycle"):
        depth, phi = rows[variant, "effective_depth"], rows[variant, "phi"]
        shown = [f"{depth['value']:.2f}", f"{depth['interval_low']:.2f} to {depth['interval_high']:.2f}"]
        shown += [f"{phi['value']:.2f}", f"{phi['interval_low']:.2f} to {phi['interval_high']:.2f}"]
        assert [variant, *shown] in [row[:5] for row in page.rows]
        assert f"| {variant} | {' | '.join(shown)} |" in done.markdown
        price = rows[variant, "perplexity_per_percent_of_blocks"]
        assert [variant, "parameters outside the embedding", f"{price['removed_percent']:.1f} %"] in [
            row[:3] for row in page.rows
        ]
    assert json.loads(done.json)["sharing_worth"] == [
        spoken(row) for row in rows_of(SharingWorthRow, TABLES["sharing_worth"])
    ]


def test_an_open_end_and_a_reason_are_shown_as_such():
    beyond = {"interval_low": None, "code": "beyond_ladder", "figures_json": as_json({"shallowest": 3, "deepest": 4})}
    unknown = {"value": None, "interval_low": None, "interval_high": None}
    open_end = [
        replace(row, **beyond)
        if (row.variant, row.quantity) == ("cycle", "phi")
        else replace(row, **(unknown if row.variant == "albert" else {}))
        for row in rows_of(SharingWorthRow, TABLES["sharing_worth"])
    ]
    done = report({**TABLES, "sharing_worth": table_of(SharingWorthRow, open_end)})
    page = Text(done.html)
    cycle, albert = (next(r for r in page.rows if r[0] == name and len(r) == 7) for name in ("cycle", "albert"))
    assert cycle[4].startswith("… to ")
    assert cycle[6] == "the interval reaches beyond the ladder, depth 3 to 4"
    assert "| the interval reaches beyond the ladder, depth 3 to 4 |" in done.markdown
    assert albert[1:5] == ["–", "–", "–", "–"]


def test_rungs_are_trained_and_compared_with_nobody():
    assert "independent-L3" not in {pair.twin for pair in STUDY.comparisons}
    assert pc.sum(pc.equal(TABLES["trials"]["arm"], "independent-L3")).as_py() == 2
