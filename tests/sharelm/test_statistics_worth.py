"""What a loop is worth and what storage costs, against planted losses."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sharelm.sharing import Sharing
from sharelm.statistics.compare import compare
from sharelm.statistics.worth import effective_depth, phi_of, worth
from sharelm.study import Arm, expand
from sharelm.study.load import study_from_tree
from sharelm.tables import TABLES
from tests.sharelm.small import TREE

PRICES = [f"{unit}_per_percent_{of}" for of in ("stored", "of_blocks") for unit in ("nats", "perplexity")]
CYCLE = {"name": "shared", "scheme": "cycle", "blocks": 4}
TIED = {"name": "shared", "scheme": "independent", "ties": ["feed_forward"]}


def study_of(variant=CYCLE, ladder=(2, 3, 5, 6), axes=("depth", "parameters")):
    model = {**TREE["model"], "depth": 8}
    twins = {"axes": list(axes), "ladder": list(ladder)}
    return study_from_tree({**TREE, "model": model, "variant": [variant], "twins": twins}, "test")


def scores(losses, noise=0.0, seeds=(0, 1), documents=60, rng=None):
    """Scores of arms with these losses in nats; a document's level is common, `noise` is each arm's own."""
    rng = np.random.default_rng(0) if rng is None else rng
    tokens, level = rng.integers(5, 60, documents), rng.normal(0, 1, documents)
    level -= (tokens * level).sum() / tokens.sum()
    rows = []
    for arm, loss in losses.items():
        for seed in seeds:
            by_document = loss + level + noise * rng.standard_normal() + 3 * noise * rng.standard_normal(documents)
            for at in range(documents):
                rows.append(
                    {
                        "trial": f"{arm}.s{seed}",
                        "arm": arm,
                        "seed": seed,
                        "task": "held_out",
                        "kind": "bits_per_byte",
                        "domain": "text",
                        "document": f"d{at}",
                        "item": 0,
                        "nll_nats": float(tokens[at] * by_document[at]),
                        "tokens": int(tokens[at]),
                        "bytes": 4 * int(tokens[at]),
                    }
                )
    return pa.Table.from_pylist(rows, schema=TABLES["scores"])


def planted(study, worth_depths, exponent=0.34):
    """Each arm's loss, 2 + 3 * depth^-exponent; `worth_depths` is the depth that a variant is worth."""
    depth = {arm.name: worth_depths if arm.role == "variant" else arm.sharing.depth for arm in expand(study).arms}
    return {name: 2 + 3 * at**-exponent for name, at in depth.items()}


def found(study, rows):
    table = worth(expand(study), rows)
    assert table.schema == TABLES["sharing_worth"]
    return {row["quantity"]: row for row in table.to_pylist()}


def told(row):
    """Why a figure is missing."""
    return row["code"], json.loads(row["figures_json"])


# the depth that each is worth at phi, by hand
SCHEMES = [
    ({"name": "shared", "scheme": "albert"}, lambda phi: 8**phi),
    (CYCLE, lambda phi: 4 * 2**phi),
    ({"name": "shared", "scheme": "middle_cycle", "blocks": 5}, lambda phi: 2 + 3 * 2**phi),
    ({"name": "shared", "scheme": "prelude_core_coda", "prelude": 1, "core": 2, "coda": 1}, lambda phi: 2 + 2 * 3**phi),
    ({"name": "shared", "scheme": "cycle", "blocks": 3}, lambda phi: 2 * 3**phi + 2**phi),
]


@pytest.mark.parametrize(("variant", "depth"), SCHEMES, ids=lambda v: v.get("scheme") if isinstance(v, dict) else "")
def test_a_planted_phi_without_noise_is_found(variant, depth):
    study = study_of(variant)
    rows = found(study, scores(planted(study, depth(0.46))))
    assert rows["phi"]["value"] == pytest.approx(0.46, abs=1e-6)
    assert rows["effective_depth"]["value"] == pytest.approx(depth(0.46), abs=1e-6)
    for row in (rows["phi"], rows["effective_depth"]):
        assert (row["interval_low"], row["interval_high"]) == pytest.approx((row["value"],) * 2, abs=1e-3)
        assert (row["code"], row["figures_json"], row["seeds"], row["documents"]) == (None, "{}", 2, 60)
        assert [name for name in row["against"] if name != "independent"] == sorted(row["against"])[1:]


@pytest.mark.parametrize("exponent", [0.34, 0.6])
def test_a_planted_phi_lies_in_its_interval(exponent):
    """Also where the ladder falls by another power than the one it is interpolated with."""
    study, rng, hits, widths = study_of(), np.random.default_rng(1), 0, []
    for _ in range(40):
        row = found(study, scores(planted(study, 4 * 2**0.46, exponent), noise=0.003, documents=30, rng=rng))["phi"]
        hits += row["interval_low"] <= 0.46 <= row["interval_high"]
        widths.append(row["interval_high"] - row["interval_low"])
    assert hits >= 36
    assert 0.01 < np.mean(widths) < 0.5


def test_more_noise_widens_until_the_ladder_ends():
    study = study_of(ladder=())  # depths 4 and 8 alone
    quiet, loud = (found(study, scores(planted(study, 4.1), noise=noise)) for noise in (0.0003, 0.03))
    for quantity in ("effective_depth", "phi"):
        width = quiet[quantity]["interval_high"] - quiet[quantity]["interval_low"]
        assert 0 < width < 0.2
        assert (loud[quantity]["interval_low"], loud[quantity]["confidence"]) == (None, 0.95)
        assert told(loud[quantity]) == ("beyond_ladder", {"shallowest": 4, "deepest": 8})


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        ({"shared": 9.0}, ("not_below_shallowest", {"depth": 2})),
        ({"shared": 1.0}, ("below_deepest", {"depth": 8})),
        ({"independent-L3": 2.0, "shared": 2.1}, ("ladder_does_not_fall", {})),
    ],
)
def test_a_loss_off_the_ladder_is_not_shown(losses, why):
    study = study_of()
    rows = found(study, scores(planted(study, 5) | losses, noise=0.001))
    for quantity in ("phi", "effective_depth"):
        assert (rows[quantity]["value"], rows[quantity]["interval_low"]) == (None, None)
        assert told(rows[quantity]) == why
    assert rows["nats_per_percent_stored"]["value"] is not None


def test_what_was_not_scored_or_not_with_every_seed_is_no_rung():
    study = study_of(ladder=())
    everything = scores(planted(study, 5), noise=0.001)
    trials = np.array(everything["trial"].to_pylist())
    one = found(study, everything.filter(pa.array(trials != "independent-L4.s1")))
    assert told(one["phi"]) == ("too_few_rungs", {"count": 1})
    none = found(study, everything.filter(pa.array([not name.startswith("shared") for name in trials])))
    assert {row["value"] for row in none.values()} == {None}
    assert told(none["phi"]) == ("unscored", {})
    assert told(none["nats_per_percent_stored"]) == ("no_common_seed", {})
    assert {row["seeds"] for row in none.values()} == {0}
    assert {row["value"] for row in found(study, everything.slice(0, 0)).values()} == {None}


def test_one_document_gives_no_interval():
    study = study_of()
    rows = found(study, scores(planted(study, 5), documents=1))
    assert rows["effective_depth"]["value"] == pytest.approx(5)
    for row in rows.values():
        assert (row["interval_low"], row["interval_high"]) == (None, None)
        assert told(row) == ("one_document", {})


def test_arms_of_another_shape_or_length_are_no_rungs():
    study = study_of(axes=("depth", "parameters", "compute", "memory"))
    assert any("-steps" in arm.name for arm in expand(study).arms)
    assert any("-ff" in arm.name for arm in expand(study).arms)
    row = found(study, scores(planted(study, 5)))["phi"]
    assert row["against"] == [*(f"independent-L{depth}" for depth in (2, 3, 4, 5, 6)), "independent"]


def test_the_price_is_the_loss_over_what_is_removed():
    study = study_of()
    rows = found(study, scores({"shared": 3.1, "independent": 3.0, "independent-L4": 3.3}))
    by_name = {arm.name: arm.footprint for arm in expand(study).arms}
    ours, theirs = by_name["shared"], by_name["independent"]
    stored = 100 * (1 - ours.stored_parameters / theirs.stored_parameters)
    # outside the embedding of 300 x 32: the final norm, and 4 of 8 blocks
    outside = 100 * (1 - (ours.stored_parameters - 9600) / (theirs.stored_parameters - 9600))
    assert 40 < stored < outside < 50
    for removed, of in ((stored, "stored"), (outside, "of_blocks")):
        nats, perplexity = rows[f"nats_per_percent_{of}"], rows[f"perplexity_per_percent_{of}"]
        assert nats["value"] == pytest.approx(0.1 / removed)
        assert perplexity["value"] == pytest.approx(100 * (np.exp(3.1) / np.exp(3.0) - 1) / removed)
        assert nats["removed_percent"] == perplexity["removed_percent"] == pytest.approx(removed)
        assert nats["against"] == ["independent"]


def test_the_price_has_the_interval_of_the_comparison():
    study = study_of(axes=("depth",))  # one comparison, so that it is not corrected either
    rows = scores(planted(study, 5), noise=0.01)
    (loss,) = [
        row
        for row in compare(expand(study), rows).to_pylist()
        if (row["metric"], row["domain"]) == ("loss_nats_per_token", "all")
    ]
    priced = found(study, rows)
    for quantity in PRICES:
        row = priced[quantity]
        scale = (lambda nats: nats) if quantity.startswith("nats") else (lambda nats: 100 * np.expm1(nats))
        for end in ("interval_low", "interval_high"):
            assert row[end] * row["removed_percent"] == pytest.approx(scale(loss[end]))
        assert row["confidence"] == loss["confidence"]


@pytest.mark.parametrize(
    ("variant", "code"),
    [
        (TIED, "no_loop"),
        ({"name": "shared", "scheme": "prelude_core_coda", "prelude": 2, "core": 1, "coda": 2}, "loops_add_nothing"),
    ],
)
def test_a_depth_without_phi_says_why(variant, code):
    study = study_of(variant)
    rows = found(study, scores(planted(study, 3.5)))
    assert rows["effective_depth"]["value"] == pytest.approx(3.5)
    assert (rows["phi"]["value"], rows["phi"]["interval_low"]) == (None, None)
    assert told(rows["phi"]) == (code, {})


def test_a_variant_that_stores_no_fewer_parameters_has_no_price():
    study = study_of({"name": "shared", "scheme": "relaxed", "blocks": 4, "rank": 16})
    rows = found(study, scores(planted(study, 5)))
    assert {(rows[price]["value"], *told(rows[price])[:1]) for price in PRICES} == {(None, "stores_no_fewer")}


def test_sharing_without_a_loop_has_a_depth_and_no_phi():
    study = study_of()
    (shared,) = [arm for arm in expand(study).arms if arm.role == "variant"]
    alone = Arm("alone", "variant", shared.shape, Sharing((0, 1), (0, 1)), shared.tokens)
    assert phi_of(alone, 2.0) is None
    assert phi_of(shared, 1e-9) is None or phi_of(shared, 1e-9) < -10


@st.composite
def shared_arms(draw):
    depth = draw(st.integers(2, 9))
    schedules = [
        [sorted(set(blocks)).index(block) for block in blocks]
        for blocks in (draw(st.lists(st.integers(0, depth - 1), min_size=depth, max_size=depth)) for _ in range(2))
    ]
    return Arm("drawn", "variant", study_of().shape, Sharing(*map(tuple, schedules)), 128)


@given(shared_arms(), st.floats(-3, 3))
def test_phi_and_depth_are_each_others_inverse(arm, phi):
    assume(
        any(len(set(schedule)) < arm.sharing.depth for schedule in (arm.sharing.attention, arm.sharing.feed_forward))
    )
    assert phi_of(arm, effective_depth(arm, phi)) == pytest.approx(phi, abs=1e-6)
    assert effective_depth(arm, 1) == pytest.approx(arm.sharing.depth)
    # of the small study's blocks: four matrices and three norms, three matrices and one
    sizes = 2 * 32 * 8 * (4 + 2) + 32 + 2 * 8, 3 * 32 * 64 + 32
    blocks = arm.sharing.attention_blocks, arm.sharing.feed_forward_blocks
    assert effective_depth(arm, 0) == pytest.approx(np.average(blocks, weights=sizes))
