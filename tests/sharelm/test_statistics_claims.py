"""What is claimed of a family of comparisons, against Student's tests, closed testing and planted truths."""

from itertools import combinations
from math import comb

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from sharelm.statistics.claims import LEAST, Estimate, claims, holm
from sharelm.statistics.mcnemar import Discordant, discordant

MARGIN = 0.05


def position(ends, margin=MARGIN):
    """Where an interval lies to zero and the margin (Piaggio et al., JAMA 308, 2012)."""
    low, high = ends
    if high < 0:
        return "better"
    if high < margin:
        return "not_worse"
    return "worse" if low > margin else "not_shown"


@st.composite
def estimates(draw):
    several = draw(st.booleans())
    return Estimate(
        draw(st.floats(-0.3, 0.3)),
        draw(st.floats(1e-4, 0.05)),
        draw(st.floats(1, 400)),
        draw(st.floats(1e-4, 0.05)) if several else None,
        draw(st.integers(1, 40)) if several else None,
    )


families = st.lists(estimates(), min_size=1, max_size=12)


@settings(deadline=None)
@given(estimates(), st.floats(1e-3, 0.5))
def test_a_p_value_is_the_level_whose_interval_just_reaches(one, distance):
    p = one.tail(distance)
    assume(p > 1e-9)  # 1 - 2p keeps no more digits
    _, high = one.ends(1 - 2 * p)
    assert high - one.difference == pytest.approx(distance, rel=1e-4)
    assert one.tail(-distance) == pytest.approx(1 - p)
    assert one.tail(0.0) == 0.5


@settings(deadline=None)
@given(st.floats(-5, 5), st.integers(2, 100))
def test_with_one_source_it_is_students_test(distance, documents):
    one = Estimate(0.0, 1.0, documents - 1, None, None)
    assert one.tail(distance) == pytest.approx(max(LEAST, stats.t.sf(distance, documents - 1)), rel=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=7), st.sampled_from([0.01, 0.025, 0.2]))
def test_holm_is_the_closed_test_of_bonferroni(p, level):
    """A hypothesis is rejected where every intersection that holds it is (Marcus, Peritz, Gabriel, 1976)."""
    everyone = range(len(p))
    subsets = [each for size in range(1, len(p) + 1) for each in combinations(everyone, size)]
    worst = [max(len(each) * min(p[i] for i in each) for each in subsets if at in each) for at in everyone]
    found = holm(p, level)
    assert found.p == pytest.approx([min(1.0, value) for value in worst])
    assert found.claimed == [value < level for value in found.p]


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12, unique=True))
def test_a_claim_is_a_p_value_below_the_level_of_its_own_test(p):
    found = holm(p, 0.025)
    assert found.claimed == [value < own for value, own in zip(p, found.levels, strict=True)]


@settings(deadline=None)
@given(families)
def test_the_interval_shows_what_is_claimed(family):
    for one, claim in zip(family, claims(family, MARGIN, 0.95), strict=True):
        low, high = one.ends(claim.confidence)
        if claim.outcome == "not_worse" and abs(high) < 1e-9:  # cut at zero, since the family does not show better
            assert claim.p_better >= 0.025
        else:
            assert position((low, high)) == claim.outcome


@settings(deadline=None)
@given(families)
def test_whatever_bonferroni_shows_is_shown_and_no_interval_is_wider(family):
    each = 1 - 0.05 / len(family)
    for one, claim in zip(family, claims(family, MARGIN, 0.95), strict=True):
        before = position(one.ends(each))
        assert claim.outcome == before or before == "not_shown" or (before, claim.outcome) == ("not_worse", "better")
        assert claim.confidence <= each + 1e-12


@settings(deadline=None)
@given(estimates(), st.floats(0.01, 0.2), st.floats(0.01, 0.5))
def test_a_wider_margin_never_turns_a_claim_to_the_worse(one, margin, more):
    order = ["worse", "not_shown", "not_worse", "better"]
    narrow, wide = (claims([one], m, 0.95)[0].outcome for m in (margin, margin + more))
    assert order.index(wide) >= order.index(narrow)


@settings(deadline=None)
@given(st.floats(-0.2, 0.2), st.floats(0.005, 0.05))
def test_equivalence_is_two_one_sided_tests(mean, spread):
    sample = mean + spread * stats.norm.ppf((np.arange(20) + 0.5) / 20)
    one = Estimate(float(sample.mean()), float(stats.sem(sample)), 19, None, None)
    below = stats.ttest_1samp(sample, MARGIN, alternative="less").pvalue
    above = stats.ttest_1samp(sample, -MARGIN, alternative="greater").pvalue
    (claim,) = claims([one], MARGIN, 0.95)
    assert claim.p_equivalent == pytest.approx(max(below, above, LEAST), rel=1e-4)
    low, high = one.ends(0.95)
    assert (claim.p_equivalent < 0.025) == (low > -MARGIN and high < MARGIN)


def test_a_comparison_without_an_interval_still_counts():
    one = Estimate(0.0, 0.02, 1000, None, None)
    alone, *_ = claims([one], MARGIN, 0.95)
    beside, unscored = claims([one, None], MARGIN, 0.95)
    assert (alone.outcome, beside.outcome, unscored.outcome) == ("not_worse", "not_worse", "not_shown")
    assert beside.p_not_worse == pytest.approx(2 * alone.p_not_worse)
    assert (unscored.p_not_worse, unscored.confidence) == (None, 0.975)


@pytest.mark.parametrize(("truth", "wrong"), [(MARGIN, "not_worse"), (0.0, "better"), (MARGIN, "worse")])
def test_a_wrong_claim_of_one_kind_in_a_family_is_rare(truth, wrong):
    """Six comparisons at the bound, correlated by a twin in common, beside four that are easily settled.

    The four leave the family first, so that the six are tested at more than Bonferroni's level: Holm's full power.
    """
    rng, repeats, hits = np.random.default_rng(9), 1500, 0
    easy = -1.0 if wrong != "worse" else 1.0
    for _ in range(repeats):
        noise = 0.01 * (rng.standard_normal(10) + rng.standard_normal()) / 2**0.5
        errors = 0.01 * np.sqrt(rng.chisquare(16, 10) / 16)
        at = np.where(np.arange(10) < 6, truth, easy) + noise
        family = [Estimate(d, 1e-9, 999, e, 16) for d, e in zip(at.tolist(), errors.tolist(), strict=True)]
        hits += any(claim.outcome == wrong for claim in claims(family, MARGIN, 0.95)[:6])
    assert 0.005 < hits / repeats < 0.025 + 3 * (0.025 / repeats) ** 0.5


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_a_fair_coin(ours, theirs):
    n = ours + theirs
    tail = sum(comb(n, k) for k in range(min(ours, theirs) + 1)) / 2**n
    assert Discordant(ours, theirs).p == pytest.approx(min(1.0, 2 * tail))


def test_discordant_items_are_those_of_the_same_seed_and_item():
    rng = np.random.default_rng(2)
    right = rng.integers(0, 2, (2, 3, 40))  # arm, seed, item
    rows = [
        {"arm": arm, "seed": s, "document": f"d{i % 7}", "item": i, "correct": float(right[a, s, i])}
        for a, arm in enumerate("ab")
        for s in range(3)
        for i in range(40)
    ]
    found = discordant(pa.Table.from_pylist(rng.permutation(rows).tolist()), "a", "b", [0, 2])
    kept = right[:, [0, 2]].astype(bool)
    assert (found.only_variant, found.only_twin) == ((kept[0] & ~kept[1]).sum(), (kept[1] & ~kept[0]).sum())
