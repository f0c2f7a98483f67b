"""Power against the non-central t distribution, and against studies that are simulated and judged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sharelm.statistics.claims import Estimate
from sharelm.statistics.intervals import MOST_SEEDS, seed_standard_error
from sharelm.statistics.power import Design, Spread, detectable, documents_needed, power, seeds_needed

NO_DOCUMENTS = 1e-9


@settings(deadline=None)
@given(st.integers(2, 12), st.floats(0.0, 4.0), st.sampled_from([0.025, 0.025 / 4]))
def test_two_arms_have_the_power_of_a_paired_t_test(seeds, distance, level):
    found = power(Spread(1.0, NO_DOCUMENTS), Design(2, seeds, 1000, level), distance)
    shift = distance / (2 / seeds) ** 0.5
    exact = stats.nct.sf(stats.t.isf(level, seeds - 1), seeds - 1, shift) if shift else level
    assert found == pytest.approx(exact, abs=2e-3)


@settings(deadline=None)
@given(st.integers(2, 2000), st.floats(0.1, 4.0))
def test_one_seed_has_the_power_of_the_documents_alone(documents, distance):
    error = documents**-0.5
    found = power(Spread(0.5, 1.0), Design(5, 1, documents, 0.025), distance * error)
    exact = stats.nct.sf(stats.t.isf(0.025, documents - 1), documents - 1, distance)
    assert found == pytest.approx(exact, abs=4e-3)


@pytest.mark.parametrize(("arms", "seeds"), [(3, 2), (9, 2), (9, 3), (17, 5)])
def test_power_is_how_often_simulated_studies_show_it(arms, seeds):
    rng, repeats = np.random.default_rng(arms), 4000
    # the documents' error rests on 8 of 400 documents
    spread, design = Spread(0.003, 0.05, 0.02), Design(arms, seeds, 400, 0.025 / 4)
    distance = detectable(spread, design, 0.8)
    shown = 0
    for _ in range(repeats):
        losses = spread.seeds * rng.standard_normal((arms, seeds)) + rng.standard_normal(seeds)
        error, freedom = seed_standard_error(losses[0], losses[1], losses)
        documents_error = spread.documents / 20 * np.sqrt(rng.chisquare(8) / 8)
        at = float((losses[0] - losses[1]).mean()) + spread.documents / 20 * rng.standard_normal()
        one = Estimate(at, float(documents_error), 8, error, freedom)
        shown += one.ends(1 - 2 * design.level)[1] < distance
    assert shown / repeats == pytest.approx(0.8, abs=0.02)  # three standard errors of the count


spreads = st.builds(Spread, st.floats(1e-3, 0.1), st.floats(1e-3, 1.0), st.floats(0.01, 1.0))
designs = st.builds(Design, st.integers(2, 20), st.integers(2, 8), st.integers(10, 5000), st.floats(0.001, 0.1))


@settings(deadline=None, max_examples=30)
@given(spreads, designs, st.floats(0.2, 0.95))
def test_what_is_detectable_has_the_wanted_power(spread, design, wanted):
    assert power(spread, design, detectable(spread, design, wanted)) == pytest.approx(wanted, abs=1e-4)


@settings(deadline=None, max_examples=20)
@given(spreads, designs, st.floats(0.005, 0.3))
def test_the_seeds_and_documents_needed_are_the_fewest(spread, design, distance):
    def at(seeds=design.seeds, documents=design.documents):
        return power(spread, Design(design.arms, seeds, documents, design.level), distance)

    seeds = seeds_needed(spread, design, distance, 0.8)
    if seeds is None:
        assert at(seeds=MOST_SEEDS) < 0.8
    else:
        assert at(seeds=seeds) >= 0.8
        assert seeds == 2 or at(seeds=seeds - 1) < 0.8
    documents = documents_needed(spread, design, distance, 0.8)
    if documents is None:
        assert at(documents=10**7) < 0.8
    else:
        assert at(documents=documents) >= 0.8
        assert documents == 2 or at(documents=documents - 1) < 0.8
