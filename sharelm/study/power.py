"""`[power]`: what the study is to be able to show, and how far its figures are thought to move."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sharelm.study.node import Fraction, Node, Positive, Unit


class Power(Node):
    """`[power]`: what `sharelm plan` reckons with. No result depends on it.

    The three figures of the prior stand together; a pilot's in the store goes before them.
    """

    wanted: Fraction = Field(
        default=0.8, description="The chance with which the study is to show a variant not worse that is not."
    )
    true_difference_nats: Annotated[float, Unit("nats a token")] = Field(
        default=0.0, description="The loss difference that such a variant is thought to have; below the margin."
    )
    seed_spread_nats: Annotated[float, Field(gt=0), Unit("nats a token")] | None = Field(
        default=None, description="Prior: the standard deviation over seeds of one arm's held-out loss."
    )
    document_spread_nats: Annotated[float, Field(gt=0), Unit("nats a token")] | None = Field(
        default=None,
        description="Prior: the standard error over documents of a loss difference times the root of their number.",
    )
    documents: Annotated[Positive, Unit("documents")] | None = Field(
        default=None, description="Prior: how many documents are held out, two or more."
    )

    @model_validator(mode="after")
    def _prior_is_whole(self) -> Power:
        prior = (self.seed_spread_nats, self.document_spread_nats, self.documents)
        if any(prior) and not all(prior):
            raise ValueError("seed_spread_nats, document_spread_nats and documents stand together, or none of them")
        if self.documents == 1:
            raise ValueError("documents = 1: an interval needs two documents")
        return self
