"""`[training.tune]`: which learning rates every arm is tried with, and how one of them is chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, field_validator

from sharelm.study.node import Node, Tokens


class Tune(Node):
    """`[training.tune]`: short trainings (*proxies*) of every arm, the same few rates for each.

    A proxy is `tokens` long and has a whole learning-rate schedule of its own; its warm-up has the same share of
    the steps.
    """

    learning_rates: list[Annotated[float, Field(gt=0)]] = Field(
        min_length=3,
        description="The rates that every arm is tried with, in any order; `training.learning_rate` is one of them.",
    )
    tokens: Tokens = Field(description="Tokens of one proxy: two or more whole steps, and at most `training.tokens`.")
    choose: Literal["grid", "parabola"] = Field(
        default="grid",
        description="The rate of the lowest loss, or the lowest point of the parabola through it and its neighbours.",
    )

    @field_validator("learning_rates")
    @classmethod
    def _rates_differ(cls, rates: list[float]) -> list[float]:
        if len(set(rates)) != len(rates):
            raise ValueError("the same learning rate twice is one try")
        return sorted(rates)

    def check(self, learning_rate: float, tokens: int, tokens_per_step: int) -> None:
        """Raise `ValueError` where the proxies do not fit these settings of `[training]`."""
        if self.tokens % tokens_per_step:
            raise ValueError(f"tune.tokens = {self.tokens} is not a multiple of tokens_per_step = {tokens_per_step}")
        if self.tokens < 2 * tokens_per_step:
            raise ValueError(f"tune.tokens = {self.tokens} is one step; a proxy needs two or more")
        if self.tokens > tokens:
            raise ValueError(f"tune.tokens = {self.tokens} is more than tokens = {tokens}; a proxy is a short training")
        if learning_rate not in self.learning_rates:
            raise ValueError(
                f"learning_rate = {learning_rate} is not among tune.learning_rates = {self.learning_rates}; "
                "what an arm would learn with untuned has to be tried as well"
            )


@dataclass(frozen=True)
class Tried:
    """One proxy: its learning rate, its loss in nats (None if it diverged) and the seconds it trained."""

    learning_rate: float
    loss: float | None
    seconds: float


@dataclass(frozen=True)
class Tuning:
    """What was tried with a model, in ascending order of the rate, and the rate that was chosen.

    `at_edge`: the lowest or highest rate had the lowest loss, so that a better one may lie beyond.
    """

    tried: tuple[Tried, ...]
    learning_rate: float
    at_edge: bool


def tuning(choose: str, tried: Sequence[Tried]) -> Tuning:
    """The choice among these tries, three or more.

    `grid`: the rate of the lowest loss, of equal ones the lower; a proxy that diverged counts as infinite, so where
    all did it is the lowest rate. `parabola`: the vertex, to three digits, of the parabola through that point and
    its neighbours in (log rate, loss); the grid's choice where a neighbour is missing or diverged.
    """
    tried = sorted(tried, key=lambda one: one.learning_rate)
    rates = [one.learning_rate for one in tried]
    losses = [math.inf if one.loss is None else one.loss for one in tried]
    best = losses.index(min(losses))
    at_edge = best in (0, len(tried) - 1)
    around = slice(best - 1, best + 2)
    if choose == "parabola" and not at_edge and all(map(math.isfinite, losses[around])):
        chosen = _vertex(rates[around], losses[around])
    else:
        chosen = rates[best]
    return Tuning(tuple(tried), chosen, at_edge)


def _vertex(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Of the parabola through three points of which the middle one is the lowest: it lies between the outer two.

    The slope of a parabola is a straight line, and halfway between two of its points it is the chord's.
    """
    below, at, above = map(math.log, rates)
    falling, rising = (losses[1] - losses[0]) / (at - below), (losses[2] - losses[1]) / (above - at)
    share = falling / (falling - rising) if falling < rising else 0.5
    log_rate = (below + at) / 2 + share * (above - below) / 2
    return min(max(float(f"{math.exp(log_rate):.3g}"), rates[0]), rates[2])
