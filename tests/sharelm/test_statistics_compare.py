import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharelm.errors import InputError
from sharelm.statistics.compare import compare
from sharelm.study import expand
from sharelm.study.load import study_from_tree
from sharelm.tables import TABLES

QUICKSTART = Path(__file__).parents[1] / "study.toml"
EXACT = settings(max_examples=15, deadline=None)


def study_of(variants=("cycle",), axes=("depth",), margin=0.05):
    tree = tomllib.loads(QUICKSTART.read_text())
    tree["variant"] = [variant for variant in tree["variant"] if variant["name"] in variants]
    tree["twins"]["axes"] = list(axes)
    tree["kpi"]["accuracy"]["loss_margin_nats"] = margin
    for stage in tree["rollout"].values():
        stage.pop("axes", None)
    return study_from_tree(tree, "test")


def row(arm, seed, document, nll, tokens=10, size=40, domain="prose", item=0, task="held_out", correct=None):
    kind = {"held_out": "bits_per_byte", "last_word": "cloze"}[task]
    return {
        "trial": f"{arm}.s{seed}",
        "arm": arm,
        "seed": seed,
        "task": task,
        "kind": kind,
        "domain": domain,
        "document": document,
        "item": item,
        "nll_nats": nll,
        "tokens": tokens,
        "bytes": size,
        "correct": correct,
    }


def table(rows):
    return pa.Table.from_pylist(rows, schema=TABLES["scores"])


def planted(difference, seeds=(0, 1, 2), documents=80, noise=0.001, arms=("cycle", "independent"), shift=0.0):
    """Scores whose first arm is `difference` nats a token above the second; documents differ by far more than that."""
    rng = np.random.default_rng(0)
    tokens, level = rng.integers(5, 60, documents), rng.normal(4, 1, documents)
    rows = []
    for seed in seeds:
        for arm in arms:
            mean = level + seed * shift + (difference if arm == arms[0] else 0) + noise * rng.standard_normal()
            nll = tokens * (mean + noise * rng.standard_normal(documents))
            rows += [
                row(
                    arm,
                    seed,
                    f"d{at}",
                    float(nll[at]),
                    int(tokens[at]),
                    int(4 * tokens[at]),
                    "code" if at % 3 else "prose",
                )
                for at in range(documents)
            ]
    return rows


def only(found, **wanted):
    rows = [r for r in found.to_pylist() if all(r[key] == value for key, value in wanted.items())]
    assert len(rows) == 1
    return rows[0]


def loss(found, **wanted):
    return only(found, metric="loss_nats_per_token", domain="all", **wanted)


def test_a_tiny_example_by_hand():
    rows = [
        row("cycle", 0, "a", 20.0, 10, 50),
        row("cycle", 0, "b", 90.0, 30, 100),
        row("independent", 0, "a", 18.0, 10, 50),
        row("independent", 0, "b", 78.0, 30, 100),
        row("cycle", 1, "a", 22.0, 10, 50),
        row("cycle", 1, "b", 92.0, 30, 100),
        row("independent", 1, "a", 20.0, 10, 50),
        row("independent", 1, "b", 84.0, 30, 100),
    ]
    found = compare(expand(study_of()), table(rows))
    assert found.schema == TABLES["comparisons"]
    nats = loss(found)
    # per seed: (110 - 96) / 40 = 0.35 and (114 - 104) / 40 = 0.25
    assert nats["variant_value"] == pytest.approx(2.8)
    assert nats["twin_value"] == pytest.approx(2.5)
    assert nats["difference"] == pytest.approx(0.30)
    assert nats["standard_error_seeds"] == pytest.approx(0.05)
    # documents differ by 2 of 10 and 10 of 30 tokens: resampled to 4/20, 12/40, 20/60 with odds 1:2:1
    spread = np.sqrt(np.average(np.square([0.2, 0.3, 0.3, 1 / 3]) - np.mean([0.2, 0.3, 0.3, 1 / 3]) ** 2) * 2)
    assert nats["standard_error_paired"] == pytest.approx(spread, rel=0.03)
    # a seed's documents are 1.5 and 0.5 nats off its difference, 0.5 from their mean: 4 * 0.25 / (2 * 1) * 2 / 40^2
    alone = np.sqrt(nats["standard_error_paired"] ** 2 - 0.000625)
    assert nats["standard_error_documents"] == pytest.approx(alone)
    assert (nats["seeds"], nats["documents"], nats["degrees_of_freedom"]) == (2, 2, 1)
    bits = only(found, metric="bits_per_byte", domain="all")
    assert bits["difference"] == pytest.approx(12 / np.log(2) / 150)
    assert bits["margin"] is None
    assert bits["outcome"] is None


@pytest.mark.parametrize(
    ("difference", "noise", "expected"),
    [(-0.2, 0.001, "better"), (0.02, 0.001, "not_worse"), (0.2, 0.001, "worse"), (0.03, 0.05, "not_shown")],
)
def test_a_planted_difference_has_its_outcome(difference, noise, expected):
    assert loss(compare(expand(study_of()), table(planted(difference, noise=noise))))["outcome"] == expected


def test_accuracy_is_better_when_higher():
    rows = planted(0.0)
    for arm, right in (("cycle", 1.0), ("independent", 0.0)):
        rows += [row(arm, s, f"d{d}", 1.0, task="last_word", correct=right) for s in (0, 1, 2) for d in range(50)]
    found = only(compare(expand(study_of()), table(rows)), task="last_word")
    assert (found["metric"], found["difference"], found["margin"], found["outcome"]) == (
        "accuracy",
        1.0,
        0.02,
        "better",
    )


def test_items_of_a_document_move_together():
    """200 items in 4 documents are no more than 4 draws."""
    few = [
        row(arm, 0, f"d{i % 4}", float((arm == "cycle") * (i % 4)), item=i)
        for i in range(200)
        for arm in ("cycle", "independent")
    ]
    once = [r for r in few if r["item"] < 4]
    clustered, plain = (loss(compare(expand(study_of()), table(rows))) for rows in (few, once))
    assert clustered["documents"] == 4
    assert clustered["standard_error_documents"] == pytest.approx(plain["standard_error_documents"])


def test_documents_are_paired():
    rows = planted(0.02)
    turned = [dict(r) for r in rows]
    for r in turned:  # the twin's documents under the wrong names
        if r["arm"] == "independent":
            same = next(
                o
                for o in rows
                if (o["arm"], o["seed"]) == (r["arm"], r["seed"]) and o["document"] == f"d{79 - int(r['document'][1:])}"
            )
            r["nll_nats"] = same["nll_nats"] / same["tokens"] * r["tokens"]
    paired, unpaired = (loss(compare(expand(study_of()), table(x))) for x in (rows, turned))
    assert paired["standard_error_documents"] * 20 < unpaired["standard_error_documents"]


def test_seeds_are_paired():
    rows = planted(0.02, shift=1.0)
    turned = [r | {"seed": 2 - r["seed"]} if r["arm"] == "cycle" else r for r in rows]
    paired, unpaired = (loss(compare(expand(study_of()), table(x))) for x in (rows, turned))
    assert paired["standard_error_seeds"] * 100 < unpaired["standard_error_seeds"]


def test_a_rungs_spread_over_seeds_widens_no_comparison():
    study = study_of()
    wild = planted(0.0, arms=("independent-L2", "independent"), noise=0.5)
    rung = [found for found in wild if found["arm"] == "independent-L2"]
    rows = planted(0.02)
    assert compare(expand(study), table(rows + rung)).equals(compare(expand(study), table(rows)))


@EXACT
@given(st.floats(-0.3, 0.3), st.integers(1, 3), st.integers(2, 30))
def test_swapping_the_arms_flips_the_sign_and_the_interval(difference, seeds, documents):
    rows = planted(difference, range(seeds), documents, noise=0.02)
    other = {"cycle": "independent", "independent": "cycle"}
    there = compare(expand(study_of()), table(rows)).to_pylist()
    back = compare(expand(study_of()), table([r | {"arm": other[r["arm"]]} for r in rows])).to_pylist()
    for ours, theirs in zip(there[:2], back[:2], strict=True):
        assert ours["difference"] == pytest.approx(-theirs["difference"], abs=1e-12)
        assert ours["interval_low"] == pytest.approx(-theirs["interval_high"], abs=1e-12)
        assert ours["interval_high"] == pytest.approx(-theirs["interval_low"], abs=1e-12)


@EXACT
@given(st.floats(0.01, 100), st.integers(1, 3))
def test_scaling_the_loss_scales_everything(factor, seeds):
    rows = planted(0.1, range(seeds), 20, noise=0.02)
    plain, scaled = (
        loss(compare(expand(study_of()), table([r | {"nll_nats": r["nll_nats"] * by} for r in rows])))
        for by in (1, factor)
    )
    for name in ("variant_value", "difference", "interval_low", "interval_high", "standard_error_documents"):
        assert scaled[name] == pytest.approx(plain[name] * factor, rel=1e-6)


@EXACT
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(random):
    rows = planted(0.1, documents=12, arms=("cycle", "independent"))
    shuffled = random.sample(rows, len(rows))
    assert compare(expand(study_of()), table(shuffled)).equals(compare(expand(study_of()), table(rows)))


def test_a_domain_is_its_own_documents():
    rows = planted(0.1, noise=0.05)
    found = compare(expand(study_of()), table(rows))
    alone = compare(expand(study_of()), table([r for r in rows if r["domain"] == "code"]))
    assert {r["domain"] for r in found.to_pylist()} == {"all", "code", "prose"}
    code, whole = only(found, domain="code", metric="bits_per_byte"), only(alone, domain="all", metric="bits_per_byte")
    for name in ("variant_value", "twin_value", "difference", "standard_error_seeds", "documents"):
        assert code[name] == pytest.approx(whole[name])
    assert code["standard_error_documents"] == pytest.approx(whole["standard_error_documents"], rel=0.1)
    assert code["outcome"] is code["margin"] is None


def test_the_losses_are_one_corrected_family():
    study = study_of(("albert", "cycle"), ("depth", "parameters"))
    found = compare(expand(study), table([]))
    assert len(expand(study).comparisons) == 4
    for r in found.to_pylist():
        assert r["confidence"] == pytest.approx(0.9875 if r["metric"] == "loss_nats_per_token" else 0.95)


def test_only_seeds_that_both_arms_have_are_compared():
    rows = [r for r in planted(0.02) if (r["arm"], r["seed"]) != ("independent", 1)]
    assert loss(compare(expand(study_of()), table(rows)))["seeds"] == 2
    one = loss(compare(expand(study_of()), table([r for r in rows if (r["arm"], r["seed"]) != ("cycle", 2)])))
    assert (one["seeds"], one["standard_error_seeds"], one["degrees_of_freedom"]) == (1, None, None)
    assert one["interval_low"] < one["difference"] < one["interval_high"]


def test_what_was_not_scored_is_not_shown():
    found = compare(expand(study_of()), table([r for r in planted(0.02) if r["arm"] == "cycle"]))
    assert (loss(found)["seeds"], loss(found)["difference"], loss(found)["outcome"]) == (0, None, "not_shown")
    assert only(found, task="last_word")["outcome"] == "not_shown"


def test_one_document_gives_no_interval():
    found = loss(compare(expand(study_of()), table(planted(-0.5, documents=1))))
    assert found["difference"] == pytest.approx(-0.5, abs=0.01)
    assert (found["interval_low"], found["standard_error_documents"], found["outcome"]) == (None, None, "not_shown")


def test_the_axis_is_reported():
    study = study_of(("cycle",), ("depth", "parameters"))
    found = compare(expand(study), table([]))
    for pair in expand(study).comparisons:
        r = loss(found, axis=pair.axis)
        assert (r["variant"], r["twin"], r["axis_target"], r["axis_reached"]) == (
            pair.variant, pair.twin, pair.target, pair.reached,
        )  # fmt: skip


def _without_last(rows):
    return rows[:-1]


def _changed(**values):
    return lambda rows: [*rows[:-1], rows[-1] | values]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without_last, "same documents.*d79.*items"),
        (_changed(tokens=999), "same documents.*d79.* tokens .* 999 "),
        (_changed(bytes=999), "same documents.*d79.* bytes .* 999 "),
        (_changed(document="else"), "same documents"),
        (_changed(nll_nats=float("nan")), r"nll_nats = nan.*independent\.s2.*d79"),
        (_changed(nll_nats=None), "nll_nats = None"),
        (lambda rows: [*rows, rows[-1]], "item 0 of document d79.*twice.*independent.s2"),
    ],
)
def test_unmatched_scores_are_refused(spoil, said):
    with pytest.raises(InputError, match=said):
        compare(expand(study_of()), table(spoil(planted(0.02))))


def test_a_null_answer_is_refused():
    rows = [row(arm, 0, "a", 1.0, task="last_word") for arm in ("cycle", "independent")]
    with pytest.raises(InputError, match="correct = None"):
        compare(expand(study_of()), table(rows))
