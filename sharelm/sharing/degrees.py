"""The degrees of sharing that go on top of schedules; each composes with the others unless `checks` refuses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

STRICT: Any = ConfigDict(extra="forbid")  # where pydantic reads one of these from a study or a file

Coefficients = Literal["none", "learned", "fixed"]


@dataclass(frozen=True)
class LowRank:
    """W + scale x B A at every depth that reads a looped block (relaxed recursion, arXiv 2410.20672).

    `attention` and `feed_forward` are the ranks. Rank 0 is no delta; a matrix uses at most its smaller side. A and B
    belong to one depth. Either B starts at zero, or A and B start from the truncated SVD of the difference between the
    depth's own independent draw and the block it reads.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    attention: int = 0
    feed_forward: int = 0
    attention_scale: float = 1.0
    feed_forward_scale: float = 1.0
    start: Literal["zero", "svd"] = "zero"


@dataclass(frozen=True)
class Atoms:
    """W_l = sum over s of c_ls D_s for each matrix: a kind's stored blocks are its atoms D (MASA, arXiv 2508.04581;
    Basis Sharing, 2410.03765).

    Coefficients start one-hot at the schedule's block, so that training starts from the model of the schedule. Fixed
    coefficients stay there.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    attention: Coefficients = "none"
    feed_forward: Coefficients = "none"


@dataclass(frozen=True)
class Embedding:
    """The token embedding [vocabulary, E] and the head. E below the width adds a matrix [width, E].

    This is ALBERT's factorisation (arXiv 1909.11942). A tied head reads both by transpose; an untied one has
    its own.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    head: Literal["tied", "untied"] = "tied"
    width: int | None = None


@dataclass(frozen=True)
class SoftTying:
    """Every depth keeps a block of its own, pulled towards the mean of the depths that the schedule would let share.

    The penalty is weight / 2 x sum of |W_l - mean|^2 over the matrices as stored. The weight changes linearly to
    `final_weight` over training (None: it stays). The distances after training show how much sharing the data allows.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    weight: float = 0.0
    final_weight: float | None = None

    @property
    def on(self) -> bool:
        """Whether there is a pull at any time."""
        return self.weight > 0 or (self.final_weight or 0) > 0

    def at(self, progress: float) -> float:
        """The penalty's weight at this fraction of training."""
        final = self.weight if self.final_weight is None else self.final_weight
        return self.weight + (final - self.weight) * progress
