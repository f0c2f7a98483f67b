import json
import math
import re

import pytest
from markdown_it import MarkdownIt

from sharelm.study import expand
from sharelm.tables.rows import Finding, rows_of
from sharelm.words import spoken
from tests.sharelm import synthetic
from tests.sharelm.report_helpers import Page, reported, study_of

STUDY = study_of()


@pytest.fixture(scope="module")
def made():
    return reported(STUDY)


@pytest.fixture(scope="module")
def page(made):
    return Page(made[0].html)


def minus(number, places):
    return f"{number:+.{places}f}".replace("-", "−")


def test_the_verdict_comes_first(made, page):
    report, _, lines = made
    first = page.sections["verdict"]
    assert first.startswith(lines[0])
    for line in lines:  # parted by "; " into one line a variant
        for part in line.partition(": ")[2].rstrip(".").split("; "):
            assert part in first
    assert list(page.sections)[1] == "verdict"
    markdown = report.markdown.splitlines()
    assert markdown[2] == f"**{lines[0]}**"


def test_how_far_it_goes_stands_beside_the_verdict(page):
    size = next(arm for arm in expand(STUDY).arms if arm.name == "independent").footprint.stored_parameters
    assert f"{size / 1000:.0f} k parameters" in page.sections["verdict"]
    assert "205 k training tokens, with 2 seeds" in page.sections["verdict"]
    assert f"a perplexity {100 * (math.exp(0.05) - 1):.1f} % higher" in page.sections["verdict"]


def test_every_kpi_with_its_figures_and_thresholds(made, page):
    report, tables, _ = made
    rows = [spoken(row) for row in rows_of(Finding, tables["verdicts"]) if row.kind == "kpi"]
    assert len(rows) == 6
    for row in rows:
        assert row["sentence"] in page.sections["verdict"]
        said = f"| {row['variant']} | {row['name'].replace('_', ' ')} | "
        line = next(line for line in report.markdown.splitlines() if line.startswith(said))
        assert row["sentence"] in line
        assert row["outcome"].replace("_", " ") in line
    overview = page.tables["Each variant, judged on its own"]
    for variant, row in zip(("albert", "cycle"), overview[1:], strict=True):
        outcomes = [found["outcome"].replace("_", " ") for found in rows if found["variant"] == variant]
        assert row[0] == variant
        assert [cell.split(" ", 1)[1] for cell in row[2:]] == outcomes


def test_every_stage_says_what_it_asks_for(page):
    for asked in ("Asks for accuracy; 1 seed.", "100,000,000 training tokens", "no loss at the same stored parameters"):
        assert asked in page.sections["verdict"]


def test_every_difference_stands_in_a_table(made, page):
    _, tables, _ = made
    shown = {(row[0], row[1], row[2], row[3]): row for row in page.tables["Every difference, variant less twin"][1:]}
    caption = "What pairing buys: standard errors over documents, paired and not, and McNemar’s test of right answers"
    pairing = {(row[0], row[1], row[2], row[3]): row for row in page.tables[caption][1:]}
    names = {"loss_nats_per_token": "held-out loss", "bits_per_byte": "bits per byte", "accuracy": "accuracy"}
    rows = tables["comparisons"].to_pylist()
    others = [row for row in rows if (row["metric"], row["domain"]) != ("loss_nats_per_token", "all")]
    assert len(shown) == len(pairing) == len(others) > 10
    for row in others:
        cells = shown[row["variant"], row["axis"], f"{row['task']}, {row['domain']}", names[row["metric"]]]
        assert cells[6:8] == [
            minus(row["difference"], 4),
            f"{minus(row['interval_low'], 4)} to {minus(row['interval_high'], 4)}",
        ]
        cells = pairing[row["variant"], row["axis"], f"{row['task']}, {row['domain']}", names[row["metric"]]]
        assert cells[4:6] == [f"{row['standard_error_paired']:.4f}", f"{row['standard_error_unpaired']:.4f}"]
        right = "–" if row["mcnemar_p"] is None else f"{row['only_variant_right']}, {row['only_twin_right']}"
        assert cells[6] == right
        assert (cells[7] == "–") == (row["metric"] != "accuracy")
    for pair in expand(STUDY).comparisons:
        axis = {"depth": "the same depth", "parameters": "the same stored parameters"}[pair.axis]
        table = page.tables[f"Held-out loss at {axis}, nats per token"]
        cells = next(row for row in table if row[0] == pair.variant)
        row = next(
            row
            for row in rows
            if (row["variant"], row["axis"], row["metric"], row["domain"])
            == (pair.variant, pair.axis, "loss_nats_per_token", "all")
        )
        assert cells[2:6] == [
            pair.twin,
            f"{row['variant_value']:.4f}",
            f"{row['twin_value']:.4f}",
            minus(row["difference"], 4),
        ]


def test_the_loss_of_every_arm_is_the_planted_one(page):
    for row in page.tables["All arms; loss is the mean over seeds"][1:]:
        arm = next(arm for arm in expand(STUDY).arms if arm.name == row[0])
        assert float(row[8]) == pytest.approx(synthetic.planted_loss(arm) + 0.002, abs=0.002)


def test_what_differs_between_arms_and_what_does_not(page):
    section = page.sections["settings"]
    assert "sharing.attention" in section
    assert "training.learning_rate = 0.003" in section.partition("What all arms share")[2]
    assert "Between the seeds of one arm only these differ: seed." in section


def test_diverged_and_missing_trials_are_named():
    report, _, lines = reported(
        STUDY,
        synthetic.FACTS | {"missing": [{"step": "trial cycle.s1", "reason": "a worker was killed"}]},
        diverged={"albert.s0": "loss is nan at step 7"},
        missing=frozenset({"cycle.s1", "independent-L2.s0"}),
    )
    page = Page(report.html)
    for where in (page.sections["not-shown"], report.markdown.partition("does not show")[2]):
        assert "Trial albert.s0 diverged: loss is nan at step 7." in where
        assert "The trial cycle.s1 failed, and what rests on it is missing: a worker was killed." in where
        assert "Trial independent-L2.s0 is missing: it was not run to its end." in where
    assert "whether cycle (42 % fewer parameters) keeps the full model's accuracy is open" in lines[0]
    assert "albert not met, training diverged with 1 of 2 seeds" in lines[1]
    assert "cycle not shown, trial cycle.s1 was not run to its end" in lines[1]
    assert "✗ diverged" in next(row for row in Page(report.html).tables.values() if row[0][0] == "Trial")[3][1]


def test_one_seed_says_that_seeds_were_not_varied():
    report, _, lines = reported(study_of(seeds=(3,)))
    assert "seeds were not varied" in lines[1]
    assert "Seeds were not varied: every arm was trained once, with seed 3." in report.markdown
    assert "with 1 seed." in Page(report.html).sections["verdict"]


def test_a_fast_study_says_that_it_does_not_repeat():
    fast = STUDY.model_copy(update={"training": STUDY.training.model_copy(update={"fast": True})})
    for study, said in ((STUDY, False), (fast, True)):
        report, *_ = reported(study)
        assert ("Training was fast rather than repeatable" in Page(report.html).sections["not-shown"]) is said


def test_an_arm_whose_seeds_lie_apart_is_named(monkeypatch):
    calm, *_ = reported(STUDY)
    assert "nats apart" not in calm.markdown
    real = synthetic.seeded
    monkeypatch.setattr(
        synthetic, "seeded", lambda trial: real(trial) + 0.5 * (trial.arm.name == "cycle" and trial.seed == 1)
    )
    report, *_ = reported(STUDY)
    found = re.findall(
        r"The seeds of (\w+) ended (0\.\d+) nats apart, those of the arms in the middle 0\.", report.markdown
    )
    assert [name for name, _ in found] == ["cycle"]
    assert 0.3 < float(found[0][1]) < 0.7


def test_trials_that_shared_a_gpu_say_so():
    for study, said in (
        (STUDY, False),
        (STUDY.decided(trials_per_gpu=1), False),
        (STUDY.decided(trials_per_gpu=2), True),
    ):
        report, *_ = reported(study)
        assert ("Trials were trained 2 at a time on one GPU" in Page(report.html).sections["not-shown"]) is said


def test_without_costs_the_page_says_so():
    report, _, lines = reported(STUDY, costs=False)
    page = Page(report.html)
    assert "Cost was not measured." in page.sections["money"]
    assert "Memory was not measured." in page.sections["memory"]
    assert "Cost was not measured." in page.sections["verdict"]
    assert "Cost of albert was not measured for chat." in page.sections["not-shown"]
    assert lines[2].startswith("Inference cost: albert not shown, memory was not measured")


def test_with_nothing_at_all_there_is_still_a_page():
    names = [f"{arm.name}.s{seed}" for arm in expand(STUDY).arms for seed in (0, 1)]
    report, _, lines = reported(STUDY, {}, missing=frozenset(names))
    page = Page(report.html)
    assert page.sections["verdict"].startswith(lines[0])
    assert "the study is not finished" in lines[0]
    assert "No training steps were recorded." in page.sections["curves"]
    assert page.sections["not-shown"].count("is missing") == len(names)
    assert json.loads(report.json)["arms"][0]["loss_nats_per_token"] is None


def test_the_page_needs_nothing_from_outside(made, page):
    html = made[0].html
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "foreignobject"}
    for tag, attributes in page.elements:
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    assert "@import" not in html
    assert re.findall(r"url\(\s*[^#\s]", html) == []
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_ids_are_there_once_and_every_reference_has_its_target(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for _, a in page.elements for value in (a.get("href"),) if value}
    wanted |= {name for _, a in page.elements for name in a.get("aria-labelledby", "").split()}
    assert wanted <= set(ids)


def test_the_same_tables_give_the_same_bytes(made):
    again, _, _ = reported(STUDY)
    assert again == made[0]


def test_the_json_has_the_figures_of_the_tables(made):
    report, tables, lines = made
    tree = json.loads(report.json)
    assert tree["headline"] == lines
    assert tree["study"]["study"]["name"] == "quickstart"
    for table in ("comparisons", "verdicts"):
        rows = tables[table].to_pylist()
        rows = [spoken(row) for row in rows_of(Finding, tables[table])] if table == "verdicts" else rows
        assert len(tree[table]) == len(rows)
        assert all(row in tree[table] for row in rows)
    scores = tables["scores"].to_pylist()
    for arm in tree["arms"]:
        for seed in ("0", "1"):
            mine = [
                row
                for row in scores
                if (row["arm"], str(row["seed"]), row["kind"]) == (arm["arm"], seed, "bits_per_byte")
            ]
            loss = math.fsum(row["nll_nats"] for row in mine) / sum(row["tokens"] for row in mine)
            assert arm["loss_nats_per_token_by_seed"][seed] == pytest.approx(loss)
        costs = [row for row in tables["costs"].to_pylist() if row["arm"] == arm["arm"]]
        assert arm["costs"][0]["cost_per_1m_tokens"] == pytest.approx(
            sum(row["cost_per_1m_tokens"] for row in costs) / len(costs)
        )
    assert tree["facts"] == json.loads(json.dumps(synthetic.FACTS))


HOSTILE = (
    "<script>window.hostile=1</script></style></title></svg>\" onload=\"window.hostile=2' onerror='window.hostile=3 "
    "<img src=x onerror=window.hostile=4> <!-- ]]> [a](http://evil.example/a) ![i](http://evil.example/i) "
    "<http://evil.example/b> | `c` *b* __i__ ~~s~~ $x$ &amp; &#60; {{ 7*7 }} {% raw %} \\ \x07\x1b[31m"
    "\n# heading\n- item"
)


SETTING = json.dumps(HOSTILE, ensure_ascii=False)[1:-1]  # settings are shown as JSON


@pytest.fixture(scope="module")
def hostile():
    """A report whose every free text is hostile."""
    patch = pytest.MonkeyPatch()
    patch.setattr(synthetic, "DOMAINS", (f"prose {HOSTILE}", f"code {HOSTILE}"))
    patch.setattr(synthetic, "DEVICE", f"device {HOSTILE}")
    patch.setattr(synthetic, "_resolved", lambda study, trial: {"arm": f"{trial.arm.name} {HOSTILE}"})
    source = {
        "uri": f"uri {HOSTILE}".replace("\n", " ").replace("\x07\x1b", ""),
        "text_field": HOSTILE,
        "domain": "prose",
    }
    facts = {
        f"key {HOSTILE}": f"fact {HOSTILE}",
        "missing": [{"step": f"trial {HOSTILE}", "reason": f"reason {HOSTILE}"}],
        "data": {
            "note": HOSTILE,
            "domains": {f"prose {HOSTILE}": {"training": {"documents": 1, "bytes": 2, "tokens": 3}}},
        },
    }
    try:
        yield reported(
            study_of(data={"vocabulary": 1024, "source": [source]}),
            facts,
            diverged={"albert.s0": f"error {HOSTILE}"},
            missing=frozenset({"cycle.s1"}),
        )
    finally:
        patch.undo()


def seen(text):
    """Text as a reader sees it: no control characters, white space run together."""
    return " ".join(re.sub(r"[\x00-\x1f]", " ", text).split())


def test_text_from_data_is_only_text_in_html(hostile, made):
    page, plain = Page(hostile[0].html), Page(made[0].html)
    test_the_page_needs_nothing_from_outside(hostile, page)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements}
    for where in ("error", "reason", "fact", "device", "prose", "uri"):
        assert f"{where} {seen(HOSTILE)}" in seen(page.text), where
    assert f"albert {SETTING}" in page.text


def test_text_from_data_is_only_text_in_markdown(hostile):
    markdown = hostile[0].markdown
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    inline = [child for token in tokens for child in token.children or []]
    kinds = {token.type for token in [*tokens, *inline]}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "code_inline", "fence", "em_open", "s_open"}
    assert sum(token.type == "strong_open" for token in inline) == 1  # the answer
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert all("heading" not in heading for heading in headings)
    text = seen(" ".join("".join(child.content for child in token.children or []) for token in tokens))
    for where in ("error", "reason", "fact", "device", "prose"):
        assert f"{where} {seen(HOSTILE)}" in text.replace("\\$", "$"), where
    assert f"albert {SETTING}" in text.replace("\\$", "$")


def test_text_from_data_is_only_text_in_json(hostile):
    tree = json.loads(hostile[0].json)
    albert = next(arm for arm in tree["arms"] if arm["arm"] == "albert")
    assert albert["trials"][0]["error"] == f"error {HOSTILE}"
    assert f"prose {HOSTILE}" in {row["domain"] for row in tree["comparisons"]}
    assert tree["facts"][f"key {HOSTILE}"] == f"fact {HOSTILE}"
