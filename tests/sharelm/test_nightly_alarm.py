"""The rule of nightly alarms: against a plain loop, closed forms, planted truths and a small simulation."""

import math
import subprocess
import sys
from statistics import NormalDist, fmean, median, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.nightly_alarm import NOISES, cell, main, noise
from sharelm.nightly.alarm import (
    CONFIDENCE,
    DETECTABLE,
    LAG,
    LEARN,
    LIMIT,
    REFERENCE,
    THRESHOLD,
    _standardised,
    _Sum,
    standing,
    standings,
)

MEASURED = st.floats(0.01, 100.0).map(lambda value: round(value, 6))
NIGHTLY = st.lists(st.one_of(st.none(), MEASURED, st.sampled_from([1.0, 1.002, 1.05, 2.0])), max_size=40)
STEADY = st.tuples(st.integers(0, 2**32 - 1), st.floats(0, 0.05), st.floats(-0.2, 0.2), st.integers(12, 40))


def steady(drawn: tuple[int, float, float, int]) -> list[float]:
    """40 nights of a spread, with a shift in them."""
    seed, spread, shift, first = drawn
    logs = spread * np.random.default_rng(seed).standard_normal(40)
    logs[first:] += shift
    return (50 * np.exp(logs)).tolist()


def noisy(nights: int) -> np.ndarray:
    """Nights around 200 with a spread of 1 %: ten normal scores in ever new order, so that no ten nights are odd."""
    scores, rng = stats.norm.ppf((np.arange(10) + 0.5) / 10), np.random.default_rng(0)
    return 200 * np.exp(0.0107 * np.concatenate([rng.permutation(scores) for _ in range(nights // 10 + 1)])[:nights])


def states(values, **rule) -> list[str]:
    return [found.state for found in standings(list(values), **rule)]


def plain_rule(values: list[float], margin: float) -> list[tuple[str, int | None]]:
    """The rule of docs/nightly.md once more: one metric, lists instead of running sums, worse is higher, log scale."""
    normal = NormalDist()
    y = [math.log(value) for value in values]

    def limit(freedom: int) -> float:
        return float(stats.t.isf(1 - normal.cdf(LIMIT), freedom))

    def spreads(beyond: float, error: float, freedom: int) -> float:
        tail = float(stats.t.sf(abs(beyond) / error, freedom))
        size = min(2 * LIMIT, float(stats.norm.isf(tail)))
        return math.copysign(size, beyond)

    def deleted(night: int) -> float:
        others = y[:night] + y[night + 1 : LEARN]
        return abs(y[night] - fmean(others)) / (max(stdev(others), 1e-4 * margin) * math.sqrt(LEARN / (LEARN - 1)))

    far = max(range(LEARN), key=deleted)
    baseline = [y[n] for n in range(LEARN) if n != far or deleted(n) <= limit(LEARN - 2)]
    found: list[tuple[str, int | None]] = [("learning", None)] * LEARN
    gains: dict[int, list[tuple[int, float]]] = {1: [], -1: []}  # night it dates from and gain, since it was last zero
    waiting: dict[int, float] = {1: 0.0, -1: 0.0}
    before: dict[int, float] = {1: 0.0, -1: 0.0}
    back: list[float] = []
    queue: list[tuple[float, bool]] = []
    mode, since = 0, None

    def passed(of: list[float]) -> bool:
        return bool(of) and sum(of) - max(of) >= THRESHOLD

    def add(sign: int, night: int, gain: float) -> None:
        gains[sign].append((night, gain))
        if sum(part for _, part in gains[sign]) <= 0:
            gains[sign].clear()

    for night in range(LEARN, len(y)):
        known = len(baseline)
        error = max(stdev(baseline), 1e-4 * margin) * math.sqrt(1 + 1 / known)
        away = y[night] - fmean(baseline)
        u = {sign: spreads(sign * away - margin, error, known - 1) for sign in (1, -1)}
        for sign in (1, -1):
            confirmed = waiting[sign] > 0 and u[sign] >= waiting[sign] / 2
            if confirmed:
                add(sign, night - 1, LIMIT - REFERENCE)
                gains[sign] = [(night - 1, gain) for _, gain in gains[sign]]
            alone = u[sign] > LIMIT and not confirmed and before[sign] < u[sign] / 2
            waiting[sign], before[sign] = u[sign] if alone else 0.0, u[sign]
            if not alone:
                add(sign, night, max(-LIMIT, min(LIMIT, u[sign])) - REFERENCE)
        if mode:
            back.append(REFERENCE - max(-LIMIT, min(LIMIT, u[mode])))
            if sum(back) <= 0:
                back.clear()
            if passed(back):
                gains[mode].clear()
                queue = [(value, False) for value, _ in queue]
                mode, since = 0, None
                back.clear()
        for sign in (1, -1):
            if mode != sign and passed([part for _, part in gains[sign]]):
                mode, since = sign, gains[sign][0][0]
                gains[-sign].clear()
                back.clear()
        if mode == 0 and waiting[1] > 0:
            found.append(("spike", night))
        else:
            found.append(({0: "well", 1: "worse", -1: "better"}[mode], since))
        queue.append((y[night], abs(away) / error <= limit(known - 1)))
        if len(queue) > LAG:
            value, usual = queue.pop(0)
            if usual and mode == 0:
                baseline.append(value)
    return found


@pytest.mark.parametrize("seed", range(24))
def test_agrees_with_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    logs = (0.0, 0.002, 0.01, 0.04)[seed % 4] * noise(("normal", "t4", "ar")[seed % 3], rng, 1)[:90, 0]
    logs[[4, 20, 21, 60]] += rng.choice([0, 0.08, 0.5], 4)
    logs[30:45] += rng.choice([-0.05, 0.03, 0.2])
    logs[70:] += rng.choice([-0.1, 0, 0.06])
    values = (3 * np.exp(logs)).tolist()
    found = [(of.state, of.since) for of in standings(values)]
    assert found == plain_rule(values, math.log1p(0.001))


def test_the_sum_has_the_run_length_of_siegmund():
    """Average nights to an alarm of a one-sided CUSUM: Siegmund (1985), (exp(2kb) - 2kb - 1) / 2k^2, b = h + 1.166."""
    k, h, metrics = 0.5, 4.0, 2000
    rng = np.random.default_rng(0)
    total, lengths = _Sum(np.zeros(metrics)), np.zeros(metrics)
    everywhere = np.full(metrics, True)
    night = 0
    while (lengths == 0).any():
        night += 1
        total.add(rng.standard_normal(metrics) - k, night, everywhere)
        lengths[(total.total >= h) & (lengths == 0)] = night
    b = h + 1.166
    assert lengths.mean() == pytest.approx((math.exp(2 * k * b) - 2 * k * b - 1) / (2 * k**2), rel=0.06)


def test_a_standardised_night_is_normal_whatever_the_spread():
    """Hawkins: a new night's t against those before it, taken to the normal deviate, is standard normal."""
    nights = 7 + 0.3 * np.random.default_rng(0).standard_normal((9, 4000))
    first, new = nights[:8], nights[8]
    t = (new - first.mean(axis=0)) / (first.std(axis=0, ddof=1) * math.sqrt(1 + 1 / 8))
    assert stats.kstest(_standardised(t, np.full(4000, 7.0)), "norm").pvalue > 0.01
    exact = _standardised(np.array([-2.5, 0.0, 0.3, 4.0]), np.full(4, 5.0))
    assert exact == pytest.approx(stats.norm.ppf(stats.t.cdf([-2.5, 0.0, 0.3, 4.0], 5)))


@given(NIGHTLY, st.integers(0, 40), st.sampled_from(["higher", "lower"]))
@settings(deadline=None, max_examples=40)
def test_later_nights_never_change_an_earlier_verdict(values, upto, worse):
    assert standings(values[:upto], worse=worse) == standings(values, worse=worse)[:upto]


@given(STEADY, st.integers(11, 40))
@settings(deadline=None, max_examples=40)
def test_later_nights_never_change_an_earlier_verdict_of_a_steady_metric(drawn, upto):
    values = steady(drawn)
    assert standings(values[:upto]) == standings(values)[:upto]
    assert standing(values) == standings(values)[-1]


@given(STEADY, st.sampled_from([1e-9, 0.37, 1e6]))
@settings(deadline=None, max_examples=40)
def test_scaling_a_logarithmic_metric_changes_nothing(drawn, factor):
    values = steady(drawn)
    for own, scaled in zip(standings(values), standings([factor * value for value in values]), strict=True):
        assert (own.state, own.since, own.nights) == (scaled.state, scaled.since, scaled.nights)
        assert (scaled.shift or 0) == pytest.approx(own.shift or 0, rel=1e-6, abs=1e-9)


@given(STEADY)
@settings(deadline=None, max_examples=40)
def test_the_inverse_of_a_metric_stands_as_the_metric(drawn):
    values = steady(drawn)
    inverse = standings([1 / value for value in values], worse="lower")
    assert [(of.state, of.since) for of in inverse] == [(of.state, of.since) for of in standings(values)]


@given(STEADY, st.lists(st.integers(0, 40), max_size=8), st.sampled_from([None, math.nan]))
@settings(deadline=None, max_examples=40)
def test_missing_nights_are_skipped(drawn, gaps, missing):
    values = steady(drawn)
    whole, holed, nights = standings(values), list(values), list(range(40))
    for gap in gaps:
        holed.insert(gap, missing)
        nights.insert(gap, -1)
    found = standings(holed)
    for at, night in enumerate(nights):
        if night >= 0:
            own, other = whole[night], found[at]
            assert (own.state, own.nights, own.shift, own.spread) == (
                other.state,
                other.nights,
                other.shift,
                other.spread,
            )
            assert own.since == (None if other.since is None else nights[other.since])
        elif at:
            assert found[at] == found[at - 1]


@given(STEADY, st.floats(-5, 5))
@settings(deadline=None, max_examples=40)
def test_adding_to_a_linear_metric_changes_nothing(drawn, constant):
    logs = [math.log(value / 50) for value in steady(drawn)]
    moved = standings([value + constant for value in logs], scale="linear", least=0.002)
    assert [(of.state, of.since) for of in moved] == [
        (of.state, of.since) for of in standings(logs, scale="linear", least=0.002)
    ]


def test_nothing_is_said_while_the_baseline_is_learnt():
    assert standings([]) == []
    assert standing([]).state == "learning"
    found = standings([None, *noisy(LEARN + 1).tolist()])
    assert [(of.state, of.nights) for of in found] == [("learning", n) for n in range(LEARN + 1)] + [("well", 11)]
    assert found[-2].baseline is None


def test_a_planted_shift_is_found_dated_and_measured():
    values = noisy(60)
    values[40:] *= 1.05
    found = standings(values.tolist())
    assert states(values)[39:43] == ["well", "spike", "worse", "worse"]
    last = found[-1]
    assert (last.state, last.since) == ("worse", 40)
    assert last.low < 0.05 < last.high
    assert last.high - last.low < 0.025
    assert last.spread == pytest.approx(0.01, rel=0.3)
    assert last.baseline == pytest.approx(200, rel=0.01)
    assert last.detectable == pytest.approx(DETECTABLE * 0.01 + 0.001, rel=0.3)


def test_for_a_metric_of_which_less_is_worse():
    values = noisy(60)
    values[40:] *= 0.9
    last = standing(values.tolist(), worse="lower")
    assert (last.state, last.since) == ("worse", 40)
    assert last.low < -0.1 < last.high < 0
    assert standing(values.tolist(), worse="higher").state == "better"
    assert last.detectable == pytest.approx(-math.expm1(-(math.log1p(0.001) + DETECTABLE * 0.01)), rel=0.3)


def test_the_size_is_a_median_and_its_interval_a_t_interval():
    values = [*([99.0, 101.0] * 10), 130.0, 131.0, 300.0, 129.0]
    last = standing(values)
    assert (last.state, last.since) == ("worse", 20)
    logs = [math.log(value) for value in values]
    learnt = logs[: 21 - LAG]  # the last nights before the shift never enter the baseline
    size = median(logs[20:]) - fmean(learnt)
    error = stdev(learnt) * math.sqrt(math.pi / 2 / 4 + 1 / len(learnt))
    half = error * stats.t.ppf((1 + CONFIDENCE) / 2, len(learnt) - 1)
    assert [last.shift, last.low, last.high] == pytest.approx([math.expm1(size + at) for at in (0, -half, half)])


@pytest.mark.parametrize("times", [1.2, 2.0, 100.0])
def test_a_spike_is_said_and_raises_no_alarm(times):
    values = noisy(60)
    values[40] *= times
    assert states(values)[40] == "spike"
    assert states(values)[41:] == states(noisy(60))[41:]
    of = standings(values.tolist())[40]
    assert of.since == 40
    assert of.low < times - 1 < of.high


def test_two_spikes_apart_are_no_shift_and_two_in_a_row_are():
    values = noisy(60)
    values[[30, 33]] *= 1.3
    assert "worse" not in states(values)
    values[31] *= 1.3
    assert states(values)[30:32] == ["spike", "worse"]


def test_a_spike_among_the_first_nights_spoils_no_baseline():
    values = noisy(40)
    values[4] *= 3
    values[30:] *= 1.06
    found = standings(values.tolist())
    assert found[LEARN].spread == pytest.approx(0.01, rel=0.5)
    assert found[31].state == "worse"


def test_a_shift_ends_when_the_metric_is_back():
    values = noisy(70)
    values[30:50] *= 1.1
    found = states(values)
    assert found[31:50] == ["worse"] * 19
    assert found[53:] == ["well"] * 17
    assert standings(values.tolist())[60].baseline == pytest.approx(200, rel=0.01)


def test_from_worse_to_better_and_back():
    values = noisy(90)
    values[30:50] *= 1.1
    values[50:70] *= 0.9
    found = standings(values.tolist())
    assert [of.state for of in found[32:50]] == ["worse"] * 18
    assert {of.state for of in found[52:70]} == {"better"}
    assert found[69].since == 50
    assert found[69].shift == pytest.approx(-0.1, abs=0.01)
    assert {of.state for of in found[74:]} == {"well"}


def test_an_accepted_baseline_begins_anew():
    values = noisy(80)
    values[30:] *= 1.1
    assert standing(values.tolist()).state == "worse"
    found = standings(values.tolist(), accepted=30)
    assert len(found) == 50
    assert [of.state for of in found[:LEARN]] == ["learning"] * LEARN
    assert found[-1].state == "well"
    assert found[-1].baseline == pytest.approx(220, rel=0.01)
    values[70:] *= 1.1
    assert standing(values.tolist(), accepted=30).since == 70


@pytest.mark.parametrize(
    ("change", "told"),
    [(0.0005, "well"), (0.00099, "well"), (0.00101, "worse"), (0.05, "worse"), (1.0, "worse"), (-0.00101, "better")],
)
def test_a_metric_that_repeats_to_the_bit(change, told):
    values = [3.7] * 20 + [3.7 * (1 + change)] * 3
    found = standings(values)
    assert {of.state for of in found[LEARN:20]} == {"well"}
    assert found[20].state == ("spike" if told == "worse" else "well")
    assert [of.state for of in found[21:]] == [told] * 2
    assert found[19].spread < 1e-6
    if told != "well":
        assert found[-1].since == 20
        assert found[-1].shift == pytest.approx(change)


def test_small_changes_of_a_metric_that_repeats_add_up():
    values = [3.7] * 20 + [3.7 * 1.0006] * 20 + [3.7 * 1.0012] * 2
    assert states(values)[20:] == ["well"] * 20 + ["spike", "worse"]
    assert "worse" not in states(values, least=0.01)


def test_a_linear_metric_with_zeros_and_negative_values():
    values = [0.0, 0.002, -0.001, -0.002, 0.001] * 5
    found = standings([*values, 0.03, 0.031], scale="linear")
    assert [of.state for of in found[-2:]] == ["spike", "worse"]
    assert found[-1].shift == pytest.approx(0.0305, abs=0.002)
    assert found[-1].spread == pytest.approx(stdev(values), rel=0.1)
    assert standing([0.0] * 12 + [-0.01] * 2, scale="linear", worse="lower").state == "worse"


@pytest.mark.parametrize(("value", "scale"), [(0.0, "log"), (-1.0, "log"), (math.inf, "log"), (-math.inf, "linear")])
def test_a_value_that_does_not_lie_on_the_scale(value, scale):
    with pytest.raises(ValueError, match="night 3"):
        standings([1.0, None, 1.0, value], scale=scale)
    assert standing([1.0, None, 1.0, value, 1.0], scale=scale, accepted=4).nights == 1


@pytest.mark.parametrize("kind", NOISES)
def test_what_is_promised_holds_in_simulation(kind):
    """The benchmark with fewer metrics: alarms, delays, spikes."""
    fine, medium, coarse = (cell(spread, kind, 600, [7, at]) for at, spread in enumerate((0.003, 0.015, 0.1)))
    for row in (fine, medium, coarse):
        assert sum(row["false_alarms_per_100_nights"]) < 1
        assert sum(row["false_better_per_100_nights"]) < 1
        assert row["found_at_detectable"][0] == pytest.approx(0.9, abs=0.04)
    assert (fine["found_within_3_nights"][0], fine["median_nights"], fine["nights_of_90_percent"]) == (1, 2, 2)
    assert fine["spikes"]["0.05"]["said"][0] > 0.95
    assert medium["found_within_3_nights"][0] > 0.85
    assert medium["found_within_3_nights_after_learning"][0] > 0.8
    assert medium["interval_holds_truth"] > 0.85
    assert coarse["found_within_3_nights"][0] < 0.1  # and says so
    assert coarse["detectable"] > 0.3
    for spike in ("0.2", "1"):
        assert fine["spikes"][spike]["alarms"][0] < 0.05
        assert medium["spikes"][spike]["alarms"][0] < 0.05
    assert medium["spikes"]["0.05"]["alarms"][0] < 0.08


def test_the_benchmark_prints_its_tables(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nightly_alarm", "--metrics", "40"])
    monkeypatch.setattr("benchmarks.nightly_alarm.SPREADS", (0.01,))
    main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith('{"benchmark": "nightly_alarm"')
    assert sum(line.startswith("| ") for line in printed) == 3 * (2 + len(NOISES))


def test_importing_the_rule_is_light():
    code = "import sys, sharelm.nightly.alarm; sys.exit(bool({'torch', 'pyarrow', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
