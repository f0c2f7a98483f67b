"""When one metric of a nightly run raises an alarm: a self-starting CUSUM that one night alone does not raise.

Every night is held against the accepted baseline, in units of the metric's own night-to-night spread. The baseline
learns on, so that a standardised night is normal whatever the spread is (Hawkins, *The Statistician* 36, 1987). Its
excess over `REFERENCE` adds up night by night (Page, *Biometrika* 41, 1954). Two things tell a spike from a shift: the
sum must pass `THRESHOLD` without its largest night, and a night beyond `LIMIT` waits for the next one, after the
two-in-a-row rule of Lucas & Crosier (*Communications in Statistics: Theory and Methods* 11, 1982).
`docs/nightly.md` explains the rule and `benchmarks/nightly_alarm.py` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
State = Literal["learning", "well", "spike", "worse", "better"]

STATES: tuple[State, ...] = ("learning", "well", "spike", "worse", "better")
LEARNING, WELL, SPIKE, WORSE, BETTER = range(5)

LEARN = 10  # measured nights of a baseline before anything is said
LEAST = 0.001  # the largest lasting change that is never told: relative, or on a linear scale in the metric's unit
REFERENCE = 1.0  # spreads that a night's excess is counted from
THRESHOLD = 1.25  # spreads of excess, without the largest night's, that raise an alarm
LIMIT = 3.0  # spreads that a night counts for at most; one beyond waits for the next
LAG = 3  # measured nights until a night enters the baseline
TOLD = 7  # latest nights of a shift that its size is estimated from
CONFIDENCE = 0.95  # of the interval of a shift's size
DETECTABLE = 3.35  # spreads of a lasting shift that 3 nights find nine times out of ten, by simulation


@dataclass(frozen=True)
class Standing:
    """How a metric stands on one night.

    `baseline` is in the metric's unit. `spread` (one standard deviation from night to night), `detectable` and `shift`
    are relative changes on a logarithmic scale (0.05 is 5 % more) and in the metric's unit on a linear one.
    `detectable` is the size of a lasting change for the worse that 3 nights find nine times out of ten. `shift` has
    the sign of the value's change. It is given for a spike and for a lasting shift, with its 95 % interval, which
    takes the shift's first night as known.
    """

    state: State
    nights: int  # measured since the baseline was accepted
    since: int | None = None  # the index of the first night of the shift, or of the spike
    baseline: float | None = None
    spread: float | None = None
    detectable: float | None = None
    shift: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Trace:
    """What `watch` found: arrays of (nights, metrics). `level` and `spread` are NaN while the baseline is learnt."""

    state: Integers  # an index of STATES
    since: Integers  # the first night of a spike or shift, else -1
    level: Floats
    spread: Floats
    known: Floats  # nights in the baseline


@dataclass
class _Sum:
    """Page's one-sided CUSUM of many metrics; its largest gain and its first night since it was last zero."""

    total: Floats
    largest: Floats = field(init=False)
    since: Integers = field(init=False)

    def __post_init__(self) -> None:
        self.largest, self.since = np.zeros_like(self.total), np.full(self.total.shape, -1)

    def add(self, gain: Floats, night: int, counts: Bools) -> None:
        """Add a night's gain where it counts: max(0, total + gain)."""
        total = np.maximum(self.total + gain, 0.0)
        self.since = np.where(counts & (self.total == 0), night, self.since)
        self.largest = np.where(counts, np.where(total > 0, np.maximum(self.largest, gain), 0.0), self.largest)
        self.total = np.where(counts, total, self.total)

    def clear(self, where: Bools) -> None:
        """Begin anew."""
        self.total, self.largest = np.where(where, 0.0, self.total), np.where(where, 0.0, self.largest)

    def passed(self) -> Bools:
        """Where the sum without its largest gain reaches the threshold."""
        return np.asarray(self.total - self.largest >= THRESHOLD)


@dataclass
class _Side:
    """A sum for one direction, and a night beyond the limit that waits: it counts if the next lies nearer to it."""

    sum: _Sum
    waiting: Floats  # spreads; 0 where no night waits
    before: Floats  # the night before, in spreads

    def step(self, night: int, u: Floats) -> None:
        """Take in a night, `u` spreads beyond the baseline."""
        confirmed = (self.waiting > 0) & (u >= self.waiting / 2)
        self.sum.add(np.full_like(u, LIMIT - REFERENCE), night - 1, confirmed)
        self.sum.since = np.where(confirmed, night - 1, self.sum.since)  # no night before lay near the one that waited
        alone = (u > LIMIT) & ~confirmed & (self.before < u / 2)
        self.waiting, self.before = np.where(alone, u, 0.0), u
        self.sum.add(np.clip(u, -LIMIT, LIMIT) - REFERENCE, night, ~alone)


def _standardised(t: Floats, freedom: Floats) -> Floats:
    """Student's t as the normal deviate of equal probability (Hawkins 1987), at most 2 `LIMIT` either way."""
    return np.asarray(np.copysign(np.minimum(-ndtri(stdtr(freedom, -np.abs(t))), 2 * LIMIT), t))


def _learnt(first: Floats, floor: float) -> tuple[Floats, Floats, Floats]:
    """Number, mean and sum of squares of the first nights, less the one night that lies beyond the limit of the others.

    That night is found by its externally studentised residual (Cook & Weisberg 1982).
    """
    nights = len(first)
    others = np.stack([np.delete(first, night, axis=0) for night in range(nights)])
    error = np.maximum(others.std(axis=1, ddof=1), floor) * math.sqrt(1 + 1 / (nights - 1))
    far = np.abs(first - others.mean(axis=1)) / error
    worst, columns = far.argmax(axis=0), np.arange(first.shape[1])
    keep = np.ones_like(first)
    keep[worst, columns] = far[worst, columns] <= stdtrit(nights - 2, ndtr(LIMIT))
    known = keep.sum(axis=0)
    level = (first * keep).sum(axis=0) / known
    return known, level, (keep * (first - level) ** 2).sum(axis=0)


def watch(nights: Floats, least: float, learn: int = LEARN) -> Trace:
    """Every night's verdict on many metrics at once; `nights` is (nights, metrics), more is worse, nothing is missing.

    `least` is above zero and in the unit of `nights`. No verdict looks at a later night.
    """
    assert least > 0
    assert learn >= 4
    count, metrics = nights.shape
    zeros, nothing = np.zeros(metrics), np.full((count, metrics), np.nan)
    trace = Trace(
        np.full((count, metrics), LEARNING), np.full((count, metrics), -1), nothing, nothing.copy(), nothing.copy()
    )
    if count <= learn:
        return trace
    floor = 1e-4 * least  # of the spread, since a metric that repeats to the bit has none
    known, level, squares = _learnt(nights[:learn], floor)
    up, down = (_Side(_Sum(zeros), zeros, zeros) for _ in range(2))
    back = _Sum(zeros)  # the nights that lie on the baseline's side again while a shift lasts
    mode, since = np.full(metrics, WELL), np.full(metrics, -1)
    queue: list[tuple[Floats, Bools]] = []
    for night in range(learn, count):
        spread = np.maximum(np.sqrt(squares / (known - 1)), floor)
        trace.level[night], trace.spread[night], trace.known[night] = level, spread, known
        error, away = spread * np.sqrt(1 + 1 / known), nights[night] - level
        worse, better = (_standardised((beyond - least) / error, known - 1) for beyond in (away, -away))
        up.step(night, worse)
        down.step(night, better)
        back.add(REFERENCE - np.clip(np.where(mode == WORSE, worse, better), -LIMIT, LIMIT), night, mode != WELL)
        ended = (mode != WELL) & back.passed()
        up.sum.clear(ended & (mode == WORSE))
        down.sum.clear(ended & (mode == BETTER))
        raised = up.sum.passed() & (mode != WORSE)
        gained = down.sum.passed() & (mode != BETTER) & ~raised
        since = np.where(raised, up.sum.since, np.where(gained, down.sum.since, np.where(ended, -1, since)))
        mode = np.where(raised, WORSE, np.where(gained, BETTER, np.where(ended, WELL, mode)))
        back.clear(ended | raised | gained)
        up.sum.clear(gained)
        down.sum.clear(raised)
        spike = (mode == WELL) & (up.waiting > 0)
        trace.state[night], trace.since[night] = np.where(spike, SPIKE, mode), np.where(spike, night, since)
        # the baseline learns the nights within the limit, and none of a shift
        queue = [(value, usual & ~ended) for value, usual in queue]
        queue.append((nights[night], np.abs(away / error) <= stdtrit(known - 1, ndtr(LIMIT))))
        if len(queue) > LAG:
            value, usual = queue.pop(0)
            learns, step = usual & (mode == WELL), value - level
            known = known + learns
            level = level + np.where(learns, step / known, 0.0)
            squares = squares + np.where(learns, step * (value - level), 0.0)
    return trace


def shift_of(trace: Trace, y: Floats, row: int, metric: int = 0) -> tuple[float, float]:
    """Estimate and half interval of the spike or shift that a metric has on a night, in the unit of its values `y`.

    The estimate is the median of the shift's latest nights less the baseline's mean. The standard error of a median of
    three or more normal values is at most sqrt(pi / 2) times that of their mean.
    """
    latest = y[max(int(trace.since[row, metric]), row + 1 - TOLD) : row + 1]
    level, spread, known = (float(part[row, metric]) for part in (trace.level, trace.spread, trace.known))
    error = spread * math.sqrt((math.pi / 2 if len(latest) > 2 else 1.0) / len(latest) + 1 / known)
    return float(np.median(latest)) - level, error * float(stdtrit(known - 1, (1 + CONFIDENCE) / 2))


def standings(
    values: Sequence[float | None],
    *,
    worse: Literal["higher", "lower"] = "higher",
    scale: Literal["log", "linear"] = "log",
    accepted: int = 0,
    least: float = LEAST,
    learn: int = LEARN,
) -> list[Standing]:
    """How a metric stood on every night since its baseline was accepted, oldest first.

    `values` is one value a night, None or NaN where it was not measured; such a night stands as the one before it.
    `accepted` is the index of the baseline's first night, `learn` the measured nights it takes to learn it (4 or more).
    On the scale "log" all values are above zero and changes are relative; "linear" takes any number. `least` is the
    largest lasting change that is never told: relative, or in the metric's unit.

    Raises `ValueError`, naming the night, for a value that is infinite, or not above zero on the scale "log".
    """
    measured = [
        (night, float(value))
        for night, value in enumerate(values)
        if night >= accepted and value is not None and not math.isnan(value)
    ]
    for night, value in measured:
        if math.isinf(value) or (scale == "log" and value <= 0):
            raise ValueError(f"night {night}: {value} does not lie on a {scale} scale")
    log, sign = scale == "log", 1.0 if worse == "higher" else -1.0
    numbers = np.array([value for _, value in measured])
    y = sign * (np.log(numbers) if log else numbers)
    margin = math.log1p(least) if log else least
    nights, trace = [night for night, _ in measured], watch(y[:, None], margin, learn)

    def change(size: float) -> float:
        return math.expm1(sign * size) if log else sign * size

    def standing_on(row: int) -> Standing:
        state = STATES[int(trace.state[row, 0])]
        if state == "learning":
            return Standing(state, row + 1)
        level, spread, known = (float(part[row, 0]) for part in (trace.level, trace.spread, trace.known))
        found = Standing(
            state,
            row + 1,
            baseline=math.exp(sign * level) if log else sign * level,
            spread=math.expm1(spread) if log else spread,
            detectable=abs(change(margin + DETECTABLE * spread * math.sqrt(1 + 1 / known))),
        )
        if state == "well":
            return found
        size, half = shift_of(trace, y, row)
        low, high = sorted((change(size - half), change(size + half)))
        return replace(found, since=nights[int(trace.since[row, 0])], shift=change(size), low=low, high=high)

    found = [Standing("learning", 0), *map(standing_on, range(len(nights)))]
    return [found[row] for row in np.searchsorted(nights, np.arange(accepted, len(values)), side="right")]


def standing(
    values: Sequence[float | None],
    *,
    worse: Literal["higher", "lower"] = "higher",
    scale: Literal["log", "linear"] = "log",
    accepted: int = 0,
    least: float = LEAST,
    learn: int = LEARN,
) -> Standing:
    """How a metric stands on the last night; arguments and errors are those of `standings`."""
    found = standings(values, worse=worse, scale=scale, accepted=accepted, least=least, learn=learn)
    return found[-1] if found else Standing("learning", 0)
