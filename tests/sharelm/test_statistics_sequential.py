"""Group-sequential bounds against published values, closed forms and studies that are looked at seed by seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sharelm.statistics.intervals import interval, seed_standard_error
from sharelm.statistics.sequential import bounds, crossing, levels, spent

# One-sided 0.025 (two-sided 0.05), looks evenly apart, Lan-DeMets of O'Brien-Fleming's kind: Reboussin, DeMets, Kim and
# Lan, Controlled Clinical Trials 21 (2000), and the R packages ldbounds and gsDesign (sfLDOF).
PUBLISHED = {
    1: [1.9600],
    2: [2.9626, 1.9686],
    3: [3.7103, 2.5114, 1.9930],
    4: [4.3326, 2.9631, 2.3590, 2.0141],
    5: [4.8769, 3.3569, 2.6803, 2.2898, 2.0310],
}


@pytest.mark.parametrize("looks", PUBLISHED)
def test_bounds_are_the_published_ones(looks):
    found = bounds(0.025, [(look + 1) / looks for look in range(looks)])
    assert found == pytest.approx(PUBLISHED[looks], abs=2e-4)


def test_two_looks_are_a_bivariate_normal():
    fractions = [0.4, 1.0]
    first, second = bounds(0.01, fractions)
    correlation = 0.4**0.5
    neither = stats.multivariate_normal.cdf([first, second], cov=[[1, correlation], [correlation, 1]])
    assert 1 - neither == pytest.approx(0.01, abs=1e-5)
    assert stats.norm.sf(first) == pytest.approx(spent(0.01, 0.4))


# fractions of seeds, of which a study has at most fifty
looks = st.sets(st.integers(8, 49), max_size=4).map(lambda seeds: [*(count / 50 for count in sorted(seeds)), 1.0])


@settings(deadline=None, max_examples=40)
@given(looks, st.sampled_from([0.001, 0.00625, 0.025, 0.05]))
def test_the_whole_level_is_spent_and_no_more(fractions, level):
    found = crossing(bounds(level, fractions), fractions, 0.0)
    assert np.cumsum(found) == pytest.approx([spent(level, fraction) for fraction in fractions], abs=1e-7)
    assert sum(found) == pytest.approx(level)
    assert max(levels(level, fractions)) <= level + 1e-12


def test_the_chance_of_stopping_is_that_of_simulated_walks():
    rng, fractions, drift = np.random.default_rng(3), [0.4, 0.6, 0.8, 1.0], 3.0
    at = bounds(0.025, fractions)
    steps = np.diff([0.0, *fractions])
    walks = np.cumsum(drift * steps + np.sqrt(steps) * rng.standard_normal((100_000, 4)), axis=1)
    over = walks / np.sqrt(fractions) > at
    first = np.where(over.any(axis=1), over.argmax(axis=1), 4)
    simulated = [np.mean(first == look) for look in range(4)]
    assert crossing(at, fractions, drift) == pytest.approx(simulated, abs=0.005)


@pytest.mark.parametrize("documents_error", [1e-9, 0.5])
def test_seeds_looked_at_one_by_one_are_wrongly_claimed_no_oftener(documents_error):
    """Five arms, looks after 2 to 5 seeds, nothing differs; beside it the whole level at each look.

    The documents are the same at every look.
    """
    rng, repeats, seeds = np.random.default_rng(8), 3000, (2, 3, 4, 5)
    tested = levels(0.025, [count / 5 for count in seeds])
    wrong, naive = 0, 0
    for _ in range(repeats):
        losses = rng.standard_normal((5, 5))
        of_documents = documents_error * rng.standard_normal()
        below = []
        for count, level in zip(seeds, tested, strict=True):
            ours = losses[:, :count]
            error, freedom = seed_standard_error(ours[0], ours[1], ours)
            estimate = float((ours[0] - ours[1]).mean()) + of_documents
            below.append(
                [
                    interval(estimate, documents_error, 500, error, freedom, 1 - 2 * each)[1] < 0
                    for each in (level, 0.025)
                ]
            )
        ours, all_of_it = np.any(below, axis=0)
        wrong, naive = wrong + ours, naive + all_of_it
    assert wrong / repeats < 0.025 + 2 * (0.025 / repeats) ** 0.5
    assert naive / repeats > 1.5 * wrong / repeats


@pytest.mark.parametrize(
    "fractions", [[], [0.5, 0.5], [0.0, 1.0], [0.8, 0.6], [0.5, 1.2], [0.15, 0.15000000000000002, 1.0]]
)
def test_looks_that_do_not_rise_to_one_are_refused(fractions):
    with pytest.raises(ValueError, match="rise from above 0 to 1"):
        bounds(0.025, fractions)
