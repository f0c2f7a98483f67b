import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from sharelm.statistics import intervals
from sharelm.statistics.intervals import (
    MOST_SEEDS,
    document_standard_errors,
    documents_alone,
    documents_freedom,
    interval,
    seed_standard_error,
    settling_seeds,
    unpaired_standard_error,
)


def crossed(rng, datasets, arms, seeds, documents, sigma):
    """(datasets, arms, seeds, documents) of true difference zero between arms, and the documents' sizes.

    `sigma` is the spread an arm has over seeds, over documents, and over both together.
    """
    sizes = rng.lognormal(3, 0.7, documents)
    by_seed = sigma[0] * rng.standard_normal((datasets, arms, seeds, 1))
    by_document = sigma[1] * rng.standard_normal((datasets, arms, 1, documents))
    both = sigma[2] * rng.standard_normal((datasets, arms, seeds, documents))
    return (by_seed + by_document + both) * sizes, sizes


def covered(sums, sizes, confidence, rng):
    """The share of datasets whose interval for arm 0 less arm 1 holds zero."""
    datasets = sums.shape[0]
    differences = (sums[:, 0] - sums[:, 1]).mean(axis=1)
    rests_on = [documents_freedom(difference, sizes) for difference in differences]
    errors = document_standard_errors(differences.T, np.repeat(sizes[:, None], datasets, 1), rng, resamples=400)
    alone = [documents_alone(error, sums[at, 0] - sums[at, 1], sizes) for at, error in enumerate(errors.tolist())]
    figures = sums.sum(axis=3) / sizes.sum()
    hits = 0
    for dataset in range(datasets):
        variant, twin = figures[dataset, :2]
        seeds_error, freedom = seed_standard_error(variant, twin, figures[dataset])
        low, high = interval(
            (variant - twin).mean(), alone[dataset], rests_on[dataset], seeds_error, freedom, confidence
        )
        hits += low <= 0 <= high
    return hits / datasets


@pytest.mark.parametrize(
    ("arms", "seeds", "sigma"),
    [
        (2, 1, (0.0, 1.0, 0.0)),
        (2, 2, (0.3, 0.2, 0.2)),  # seeds dominate: where Satterthwaite's interval covers 87 %
        (2, 2, (0.1, 1.0, 0.5)),
        (2, 3, (0.1, 1.0, 0.5)),
        (2, 5, (0.3, 0.5, 0.0)),
        (5, 2, (0.3, 0.2, 0.2)),
        (5, 3, (0.1, 1.0, 0.5)),
        (5, 5, (0.3, 0.5, 0.0)),
    ],
)
def test_the_interval_covers_at_its_confidence(arms, seeds, sigma):
    rng = np.random.default_rng(arms * 100 + seeds)
    sums, sizes = crossed(rng, 800, arms, seeds, 120, sigma)
    assert covered(sums, sizes, 0.95, rng) >= 0.93
    assert covered(sums, sizes, 0.80, rng) >= 0.77


def test_an_arm_three_times_as_noisy_as_the_others_is_not_covered_fully():
    """The known price of pooling over arms, stated in docs/statistics.md: below 95 %, but not far."""
    rng = np.random.default_rng(11)
    sums, sizes = crossed(rng, 800, 5, 3, 120, (0.3, 0.2, 0.2))
    sums[:, 0] += 0.85 * rng.standard_normal((800, 3, 1)) * sizes  # with the 0.3 of all arms: 0.9
    assert 0.85 <= covered(sums, sizes, 0.95, rng) <= 0.95


def test_the_interval_is_not_needlessly_wide():
    rng = np.random.default_rng(7)
    sums, sizes = crossed(rng, 800, 2, 1, 120, (0.0, 1.0, 0.0))
    assert covered(sums, sizes, 0.95, rng) <= 0.97
    sums, sizes = crossed(rng, 800, 5, 3, 120, (1.0, 0.0, 0.0))
    assert covered(sums, sizes, 0.80, rng) <= 0.93
    # all of it is what a document does in one seed, which is in both errors: counted twice, 99 % would be covered
    sums, sizes = crossed(rng, 800, 5, 5, 120, (0.0, 0.0, 1.0))
    assert 0.93 <= covered(sums, sizes, 0.95, rng) <= 0.98


def test_document_error_is_the_delta_methods():
    rng = np.random.default_rng(1)
    sizes = rng.lognormal(3, 0.7, (400, 3))
    numerators = sizes * rng.standard_normal((400, 3)) + rng.standard_normal((400, 3)) * 5
    left = numerators - sizes * (numerators.sum(0) / sizes.sum(0))
    delta = np.sqrt((left**2).sum(0) * 400 / 399) / sizes.sum(0)
    np.testing.assert_allclose(document_standard_errors(numerators, sizes, rng), delta, rtol=0.06)


def test_document_error_is_scipys_bootstrap():
    rng = np.random.default_rng(2)
    sizes = rng.integers(10, 100, 60).astype(float)
    numerators = sizes * rng.standard_normal(60)
    theirs = stats.bootstrap(
        (numerators, sizes),
        lambda x, y, axis=-1: x.sum(axis) / y.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        rng=rng,
    )
    ours = document_standard_errors(numerators[:, None], sizes[:, None], rng, resamples=4000)[0]
    assert ours == pytest.approx(theirs.standard_error * np.sqrt(60 / 59), rel=0.06)


def test_resampling_in_pieces_changes_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    numerators, sizes = rng.standard_normal((50, 2)), rng.uniform(1, 2, (50, 2))
    whole = document_standard_errors(numerators, sizes, np.random.default_rng(4))
    monkeypatch.setattr(intervals, "_CELLS_AT_ONCE", 333)
    np.testing.assert_allclose(document_standard_errors(numerators, sizes, np.random.default_rng(4)), whole, rtol=1e-9)


def test_one_document_has_no_error():
    assert np.isnan(document_standard_errors(np.ones((1, 1)), np.ones((1, 1)), np.random.default_rng(0))).all()


def test_the_unpaired_error_is_that_of_two_samples():
    """Of documents of one size: lm-evaluation-harness's `stderr` of each arm (its sample's), added in squares."""
    rng = np.random.default_rng(6)
    ours, theirs = rng.standard_normal((2, 300))
    found = unpaired_standard_error(7 * ours, 7 * theirs, np.full(300, 7.0))
    assert found == pytest.approx(np.hypot(stats.sem(ours), stats.sem(theirs)))


def test_the_unpaired_error_is_the_bootstraps_of_each_arm():
    rng = np.random.default_rng(8)
    sizes = rng.lognormal(3, 0.7, 500)
    arms = sizes * (rng.standard_normal(500) + 0.1 * rng.standard_normal((2, 500)))
    each = document_standard_errors(arms.T, np.repeat(sizes[:, None], 2, 1), rng)
    assert unpaired_standard_error(*arms, sizes) == pytest.approx(np.hypot(*each), rel=0.06)
    (paired,) = document_standard_errors((arms[0] - arms[1])[:, None], sizes[:, None], rng)
    assert paired * 5 < unpaired_standard_error(*arms, sizes)  # what both arms share falls out of their difference


def test_what_a_document_does_in_one_seed_is_taken_out_of_the_documents_error():
    """Planted: documents differ by 0.5 in every seed alike and by 1.0 in each by itself; three seeds, 80 documents."""
    rng, found, paired = np.random.default_rng(4), [], []
    for _ in range(2000):
        sizes = rng.uniform(1, 3, 80)
        differences = sizes * (0.5 * rng.standard_normal(80) + rng.standard_normal((3, 80)))
        mean = differences.mean(axis=0)
        left = mean - sizes * (mean.sum() / sizes.sum())
        error = float(np.sqrt((left**2).sum() * 80 / 79) / sizes.sum())
        weight = (sizes**2).sum() / sizes.sum() ** 2
        found.append(documents_alone(error, differences, sizes) ** 2 / weight)
        paired.append(error**2 / weight)
    assert np.mean(paired) == pytest.approx(0.25 + 1 / 3, rel=0.03)
    assert np.mean(found) == pytest.approx(0.25, rel=0.03)


def test_with_one_seed_the_documents_error_stays():
    assert documents_alone(0.3, np.ones((1, 5)), np.ones(5)) == 0.3


def test_documents_count_by_what_they_add_to_the_error():
    """Of k documents that differ from the rest alike, half of them up and half down, it rests on three times k."""
    sizes = np.full(1000, 3.0)
    for k in (2, 10, 500):
        numerators = np.zeros(1000)
        numerators[:k] = np.tile([0.2, -0.2], k // 2)
        assert documents_freedom(numerators, sizes) == pytest.approx(min(3 * k, 999))
    assert documents_freedom(2 * sizes, sizes) == 999  # nothing differs
    assert documents_freedom(np.array([1.0, 0.0]), np.ones(2)) == 1
    normal = np.random.default_rng(0).standard_normal(30_000)
    assert documents_freedom(normal, np.ones(30_000)) == pytest.approx(30_000, rel=0.05)


@settings(deadline=None)
@given(st.floats(1e-160, 1e100), st.floats(1e-3, 1e3))
def test_the_freedom_of_documents_knows_no_unit(scale, size):
    numerators, sizes = np.random.default_rng(1).standard_normal((2, 40)) ** 2
    found = documents_freedom(scale * numerators, size * sizes)
    assert found == pytest.approx(documents_freedom(numerators, sizes), rel=1e-6)


def test_a_few_large_documents_are_covered():
    """Sizes as uneven as those of the English study: with n - 1 degrees of freedom 90 % are covered."""
    rng, hits, naive, repeats = np.random.default_rng(12), 0, 0, 1500
    for _ in range(repeats):
        sizes = rng.lognormal(0, 1.9, 1000)
        numerators = sizes * (rng.exponential(size=1000) - 1)
        left = numerators - sizes * (numerators.sum() / sizes.sum())
        at, error = numerators.sum() / sizes.sum(), np.sqrt((left**2).sum()) / sizes.sum()
        low, high = interval(at, error, documents_freedom(numerators, sizes), None, None, 0.95)
        hits, naive = hits + (low <= 0 <= high), naive + (abs(at) <= stats.t.ppf(0.975, 999) * error)
    assert naive / repeats < 0.92
    assert 0.92 < hits / repeats < 0.97


def test_seed_error_of_a_pair_is_the_spread_of_its_differences():
    variant, twin = np.array([1.0, 3.0, 8.0]), np.array([0.5, 0.0, 2.0])
    error, freedom = seed_standard_error(variant, twin, np.stack([variant, twin]))
    assert error == pytest.approx(stats.sem([0.5, 3.0, 6.0]))
    assert freedom == 2


def test_seed_error_is_pooled_over_arms_as_in_a_block_design():
    rng = np.random.default_rng(5)
    arms = rng.standard_normal((5, 3)) + rng.standard_normal(3) * 10
    arms[1] = arms[0] + 1  # a pair that happens not to spread at all
    effects = [[a == i for i in range(5)] + [s == j for j in range(1, 3)] for a in range(5) for s in range(3)]
    squares = np.linalg.lstsq(np.array(effects, float), arms.ravel())[1][0]
    error, freedom = seed_standard_error(arms[0], arms[1], arms)
    assert freedom == 8
    assert error == pytest.approx(np.sqrt(2 * squares / 8 / 3))


def test_a_pair_that_spreads_more_than_the_others_keeps_its_own_spread():
    arms = np.array([[0.0, 4.0], [0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])
    error, _ = seed_standard_error(arms[0], arms[1], arms)
    assert error == pytest.approx(stats.sem([0.0, 4.0]))


def test_one_seed_has_no_error_over_seeds():
    assert seed_standard_error(np.ones(1), np.zeros(1), np.ones((2, 1))) == (None, None)


def test_one_seed_gives_students_interval_over_documents():
    ends = interval(0.3, 0.02, 39, None, None, 0.9)
    np.testing.assert_allclose(ends, stats.t.interval(0.9, 39, loc=0.3, scale=0.02))


def test_both_sources_add_their_squared_half_widths():
    documents, seeds = (stats.t.ppf(0.975, df) * error for df, error in ((39, 0.02), (1, 0.01)))
    low, high = interval(0.0, 0.02, 39, 0.01, 1, 0.95)
    assert high == -low == pytest.approx(np.hypot(documents, seeds))


@settings(deadline=None, max_examples=50)
@given(
    distance=st.floats(-0.5, 0.5),
    documents_error=st.floats(1e-4, 0.1),
    seeds_error=st.floats(1e-4, 0.5),
    seeds=st.integers(2, 6),
    arms=st.integers(2, 8),
    confidence=st.sampled_from([0.9, 0.95, 0.9875]),
)
def test_the_seeds_that_would_settle_it(distance, documents_error, seeds_error, seeds, arms, confidence):
    def half(count):  # the page's formula: each error times its own quantile, added in squares
        level = (1 + confidence) / 2
        spread = seeds_error * seeds**0.5 / count**0.5
        return np.hypot(
            special.stdtrit(39, level) * documents_error,
            special.stdtrit((arms - 1) * (count - 1), level) * spread,
        )

    enough = [count for count in range(seeds + 1, MOST_SEEDS + 1) if half(count) < abs(distance)]
    found = settling_seeds(distance, documents_error, 39, seeds_error, seeds, arms, confidence)
    assert found == (enough[0] if enough else None)


def test_the_seeds_that_would_settle_it_do():
    """Planted: a difference of 0.3, a spread over seeds of 0.2 in each of four arms; the margin is 0."""
    rng = np.random.default_rng(3)
    needed = settling_seeds(0.3, 1e-9, 1000, 0.2 * 2**0.5 / 2**0.5, 2, 4, 0.95)
    settled = []
    for _ in range(2000):
        losses = 0.2 * rng.standard_normal((4, needed))
        losses[0] += 0.3
        error, freedom = seed_standard_error(losses[0], losses[1], losses)
        low, high = interval(float((losses[0] - losses[1]).mean()), 1e-9, 1000, error, freedom, 0.95)
        settled.append(low > 0 or high < 0)
    assert 0.4 < np.mean(settled) < 0.7  # "would tell if these figures hold": they do in about half of all repeats
