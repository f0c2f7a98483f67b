"""What the rule of nightly alarms finds, misses and gets wrong: `python -m benchmarks.nightly_alarm`.

Simulates metrics of 200 nights whose truth is known, for several night-to-night spreads and kinds of noise: nothing
happens, the value rises by 5 % and stays, or rises for one night. The same nights go through a plain self-starting
CUSUM (Hawkins 1987) beside. Prints tables and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtr

from sharelm.nightly.alarm import BETTER, DETECTABLE, LEARN, LEAST, SPIKE, WELL, WORSE, Floats, shift_of, watch

SPREADS = (0.003, 0.01, 0.015, 0.03, 0.1)  # standard deviation of the logarithm
NOISES = {"normal": "normal", "t4": "Student's t, 4 d.f.", "ar": "autocorrelation 0.3"}
NIGHTS = 200
SHIFT = 0.05
SPIKES = (0.05, 0.2, 1.0)
EARLY, LATE = LEARN + 1, LEARN + 20  # index of the first night of what happens
SOON = 3  # nights within which a shift is to be found
AFTER = 5  # nights on which a spike may raise an alarm: its own and four more
MARGIN = math.log1p(LEAST)


def autocorrelated(found: Floats, correlation: float) -> Floats:
    """The same noise, each night correlated with the one before it (a process AR(1) of the same variance)."""
    found = found.copy()
    for night in range(1, len(found)):
        found[night] = correlation * found[night - 1] + math.sqrt(1 - correlation**2) * found[night]
    return found


def noise(kind: str, rng: np.random.Generator, metrics: int) -> Floats:
    """Noise of standard deviation 1, (nights, metrics)."""
    if kind == "t4":
        return rng.standard_t(4, (NIGHTS, metrics)) / math.sqrt(2)
    found = rng.standard_normal((NIGHTS, metrics))
    return autocorrelated(found, 0.3) if kind == "ar" else found


def changed(nights: Floats, first: int, size: float | Floats, last: int = NIGHTS) -> Floats:
    """The same nights, those from `first` to before `last` times 1 + `size`."""
    found = nights.copy()
    found[first:last] += np.log1p(size)
    return found


def raised(states: np.ndarray[Any, Any], state: int = WORSE) -> np.ndarray[Any, Any]:
    """Where a state begins."""
    before = np.vstack([np.full(states.shape[1], WELL), states[:-1]])
    return np.asarray((states == state) & (before != state))


def plain(nights: Floats) -> np.ndarray[Any, Any]:
    """States of a self-starting CUSUM (Hawkins 1987) with reference 1 and threshold 2.5: every night counts in full."""
    states = np.full(nights.shape, WELL)
    count, level = 2, nights[:2].mean(axis=0)
    squares = ((nights[:2] - level) ** 2).sum(axis=0)
    total = np.zeros(nights.shape[1])
    for night in range(2, len(nights)):
        away = nights[night] - level
        t = away / np.sqrt(squares / (count - 1) * (1 + 1 / count))
        total = np.maximum(total + np.copysign(ndtri(stdtr(count - 1, -np.abs(t))), t) - 1, 0)
        states[night] = np.where((total > 2.5) & (night >= LEARN), WORSE, WELL)
        count += 1
        level = level + away / count
        squares = squares + away * (nights[night] - level)
    return states


def mean_and_error(values: np.ndarray[Any, Any]) -> list[float]:
    """Mean over metrics and half of its 95 % interval."""
    return [float(values.mean()), float(1.96 * values.std() / math.sqrt(len(values)))]


def delays(states: np.ndarray[Any, Any], first: int) -> Floats:
    """Nights until the shift is found, the first is 1, never is inf; metrics that were in alarm before are left out."""
    after = states[first:, states[first - 1] != WORSE] == WORSE
    return np.where(after.any(axis=0), after.argmax(axis=0) + 1.0, np.inf)


def cell(spread: float, kind: str, metrics: int, seed: list[int]) -> dict[str, Any]:
    """All figures for one spread and one kind of noise."""
    nights = spread * noise(kind, np.random.default_rng(seed), metrics)
    quiet = watch(nights, MARGIN)
    per_100 = 100 / (NIGHTS - LEARN)
    row: dict[str, Any] = {"spread": spread, "noise": kind}
    row["false_alarms_per_100_nights"] = mean_and_error(per_100 * raised(quiet.state).sum(axis=0))
    first = quiet.state[: LEARN + 20]
    row["false_alarms_per_100_nights_at_first"] = mean_and_error(5 * raised(first).sum(axis=0))
    row["false_better_per_100_nights"] = mean_and_error(per_100 * raised(quiet.state, BETTER).sum(axis=0))

    shifted = changed(nights, LATE, SHIFT)
    late = watch(shifted, MARGIN)
    waits = delays(late.state, LATE)
    row["median_nights"], row["nights_of_90_percent"] = np.quantile(waits, (0.5, 0.9), method="inverted_cdf").tolist()
    row["found_within_3_nights"] = mean_and_error(waits <= SOON)
    row["found_within_30_nights"] = mean_and_error(waits <= 30)
    early = delays(watch(changed(nights, EARLY, SHIFT)[: EARLY + SOON], MARGIN).state, EARLY)
    row["found_within_3_nights_after_learning"] = mean_and_error(early <= SOON)
    told, ended = [], LATE + AFTER - 1
    for metric in np.flatnonzero(late.state[ended] == WORSE).tolist():
        size, half = shift_of(late, shifted[:, metric], ended, metric)
        told.append((abs(size - math.log1p(SHIFT)) <= half, abs(int(late.since[ended, metric]) - LATE) <= 1))
    row["interval_holds_truth"], row["first_night_within_1"] = np.mean(told, axis=0).tolist() if told else (None, None)

    size = np.expm1(MARGIN + DETECTABLE * quiet.spread[LATE] * np.sqrt(1 + 1 / quiet.known[LATE]))
    row["detectable"] = float(np.median(size))
    stated = delays(watch(changed(nights, LATE, size)[: LATE + SOON], MARGIN).state, LATE)
    row["found_at_detectable"] = mean_and_error(stated <= SOON)

    window = slice(LATE, LATE + AFTER)
    row["alarms_without_spike"] = mean_and_error(raised(quiet.state)[window].any(axis=0))
    row["spikes"] = {}
    for spike in SPIKES:
        states = watch(changed(nights, LATE, spike, LATE + 1)[: LATE + AFTER], MARGIN).state
        figures = {"alarms": raised(states)[window].any(axis=0), "said": states[LATE] == SPIKE}
        row["spikes"][f"{spike:g}"] = {name: mean_and_error(values) for name, values in figures.items()}

    states = plain(nights)
    row["plain_false_alarms_per_100_nights"] = mean_and_error(per_100 * raised(states).sum(axis=0))
    row["plain_found_within_3_nights"] = mean_and_error(delays(plain(shifted), LATE) <= SOON)
    row["plain_alarms_of_spikes"] = {
        f"{spike:g}": mean_and_error(
            raised(plain(changed(nights, LATE, spike, LATE + 1)[: LATE + AFTER]))[window].any(axis=0)
        )
        for spike in SPIKES
    }
    return row


def zero_spread() -> list[dict[str, Any]]:
    """Nights until a lasting change of a metric that repeats to the bit is found."""
    sizes = (0.9 * LEAST, 1.01 * LEAST, 0.01, SHIFT)
    states = watch(changed(np.zeros((NIGHTS, len(sizes))), LATE, np.array(sizes)), MARGIN).state
    return [
        {"change": size, "nights": None if math.isinf(wait) else wait}
        for size, wait in zip(sizes, delays(states, LATE).tolist(), strict=True)
    ]


def drift(metrics: int, seed: list[int]) -> dict[str, Any]:
    """A metric of 1 % spread that gets worse by 0.1 % every night: nights until it is found."""
    slope = 0.001
    nights = 0.01 * noise("normal", np.random.default_rng(seed), metrics)
    nights[LATE:] += math.log1p(slope) * np.arange(1, NIGHTS - LATE + 1)[:, None]
    found = np.quantile(delays(watch(nights, MARGIN).state, LATE), (0.5, 0.9), method="inverted_cdf").tolist()
    return {"spread": 0.01, "a_night": slope, "median_nights": found[0], "nights_of_90_percent": found[1]}


def correlated(correlation: float, metrics: int, seed: list[int]) -> dict[str, Any]:
    """False alarms where nights hang together more than the rule is made for, at a spread of 1 %."""
    nights = 0.01 * autocorrelated(np.random.default_rng(seed).standard_normal((NIGHTS, metrics)), correlation)
    alarms = 100 / (NIGHTS - LEARN) * raised(watch(nights, MARGIN).state).sum(axis=0)
    return {"correlation": correlation, "false_alarms_per_100_nights": mean_and_error(alarms)}


def percent(figure: float | list[float] | None, digits: int = 1) -> str:
    """A share, or a mean with its half interval, in percent."""
    if figure is None:
        return "-"
    value = figure[0] if isinstance(figure, list) else figure
    return f"{100 * value:.{digits}f} %"


def number(nights: float) -> str:
    """A number of nights."""
    return "never" if math.isinf(nights) else f"{nights:.0f}"


def rate(figure: list[float]) -> str:
    """Alarms per 100 nights with their 95 % interval."""
    return f"{figure[0]:.2f} ± {figure[1]:.2f}"


def table(head: list[str], rows: list[list[str]]) -> None:
    """Print a table in Markdown."""
    for line in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(line)} |")
    print()


def tables(rows: list[dict[str, Any]]) -> None:
    """Print what was found."""
    names = [[percent(row["spread"]), NOISES[row["noise"]]] for row in rows]
    print(f"A lasting change of {percent(SHIFT, 0)}, {LATE} nights after the baseline was accepted:\n")
    head = ["spread", "noise", "false alarms in 100 nights", "median nights", "90 % within", "found within 3 nights"]
    head += ["the same right after learning", "3 nights find (9 of 10)", "such a change is found"]
    keys = ("found_within_3_nights", "found_within_3_nights_after_learning", "detectable", "found_at_detectable")
    table(
        head,
        [
            [
                *name,
                rate(row["false_alarms_per_100_nights"]),
                number(row["median_nights"]),
                number(row["nights_of_90_percent"]),
                *(percent(row[key]) for key in keys),
            ]
            for name, row in zip(names, rows, strict=True)
        ],
    )
    print(f"A spike of one night: share that raise an alarm within {AFTER} nights, and that are said to be spikes:\n")
    head = ["spread", "noise", "alarms without one"]
    head += [f"{kind} {percent(spike, 0)}" for spike in SPIKES for kind in ("alarms,", "said,")]
    table(
        head,
        [
            [
                *name,
                percent(row["alarms_without_spike"]),
                *(percent(of[kind]) for of in row["spikes"].values() for kind in ("alarms", "said")),
            ]
            for name, row in zip(names, rows, strict=True)
        ],
    )
    print("A plain self-starting CUSUM (reference 1, threshold 2.5) on the same nights:\n")
    head = ["spread", "noise", "false alarms in 100 nights", "found within 3 nights"]
    head += [f"alarms of {percent(spike, 0)} spikes" for spike in SPIKES]
    table(
        head,
        [
            [
                *name,
                rate(row["plain_false_alarms_per_100_nights"]),
                percent(row["plain_found_within_3_nights"]),
                *(percent(of) for of in row["plain_alarms_of_spikes"].values()),
            ]
            for name, row in zip(names, rows, strict=True)
        ],
    )


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", type=int, default=4000, help="simulated metrics for each spread and noise")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    cells = [(spread, kind) for spread in SPREADS for kind in NOISES]
    rows = [cell(*names, options.metrics, [options.seed, at]) for at, names in enumerate(cells)]
    tables(rows)
    exact, slow = zero_spread(), drift(options.metrics, [options.seed, len(cells)])
    for of in exact:
        when = "never told" if of["nights"] is None else f"found on night {of['nights']:.0f}"
        print(f"spread 0: a lasting change of {100 * of['change']:.3g} % is {when}")
    print(
        f"spread 1.0 %: a drift of 0.1 % a night is found after {number(slow['median_nights'])} nights (median), "
        f"nine times out of ten within {number(slow['nights_of_90_percent'])}"
    )
    worst = max(row["false_alarms_per_100_nights_at_first"] for row in rows)
    print(f"false alarms on the first 20 nights after learning, the worst of all rows: {rate(worst)} in 100 nights")
    strong = [correlated(much, options.metrics, [options.seed, len(cells) + 1]) for much in (0.5, 0.7)]
    for of in strong:
        print(
            f"autocorrelation {of['correlation']}: {rate(of['false_alarms_per_100_nights'])} false alarms in 100 nights"
        )
    for kind, name in NOISES.items():
        told = [row for row in rows if row["noise"] == kind and row["spread"] <= 0.015]
        holds, first = (min(row[key] for row in told) for key in ("interval_holds_truth", "first_night_within_1"))
        print(
            f"{name}, spread up to 1.5 %, fifth night of the change: its interval holds {percent(SHIFT, 0)} "
            f"in at least {percent(holds)} of metrics, "
            f"its first night is right within one night in at least {percent(first)}"
        )
    print(f"{time.perf_counter() - started:.0f} seconds")
    row = {"benchmark": "nightly_alarm", "metrics": options.metrics, "nights": NIGHTS, "seed": options.seed}
    print(json.dumps({**row, "rows": rows, "zero_spread": exact, "drift": slow, "correlated": strong}))


if __name__ == "__main__":
    main()
