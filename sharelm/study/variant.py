"""`[[variant]]`: a sharing the study asks about."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sharelm.errors import nearest
from sharelm.sharing import SCHEMES, Atoms, Embedding, LowRank, Sharing, SoftTying, build_sharing
from sharelm.sharing.schedules import check_schedule
from sharelm.sharing.shape import Kind
from sharelm.study.node import Name, Node, OneOf, Positive

_DEGREES = tuple(field.name for field in fields(Sharing) if field.name not in ("attention", "feed_forward"))
_NUMBERS = ("blocks", "prelude", "core", "coda", "rank", "first", "last")


class Variant(Node):
    """`[[variant]]`: a model the study asks about: a named scheme with its numbers, or two schedules; then degrees.

    A degree that is given takes the place of the scheme's. With degrees alone every depth has blocks of its own.
    """

    name: Name = Field(description="The name of the arm in all tables and in the report.")
    scheme: Annotated[str, OneOf(tuple(SCHEMES))] | None = Field(
        default=None, description="A named scheme; `sharelm schemes` draws them and says which numbers each takes."
    )
    blocks: Positive | None = Field(
        default=None,
        description="The stored blocks of a scheme. Beside `attention` and `feed_forward`, the number that both lists "
        "must use.",
    )
    prelude: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Depths before the looped core that have blocks of their own."
    )
    core: Positive | None = Field(default=None, description="Blocks of the looped core.")
    coda: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Depths after the looped core that have blocks of their own."
    )
    rank: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Rank of the low-rank deltas of the schemes relaxed and residual; 0: none."
    )
    first: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The first depth that a late loop runs twice."
    )
    last: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The last depth that a late loop runs twice."
    )
    attention: tuple[int, ...] | None = Field(
        default=None,
        description="In place of a scheme: the stored attention block that each depth reads, numbered from 0, one "
        "entry for each of the `model.depth` depths.",
    )
    feed_forward: tuple[int, ...] | None = Field(
        default=None, description="The same for the feed-forward blocks; the two lists are given together."
    )
    low_rank: LowRank | None = Field(
        default=None,
        description="W + scale x B A at every depth that reads a looped block W; A and B belong to one depth "
        "(relaxed recursion, arXiv 2410.20672).",
    )
    diagonal: tuple[Kind, ...] | None = Field(
        default=None,
        description="Kinds whose matrices get a vector of each depth that reads a looped block, added on the main "
        "diagonal.",
    )
    atoms: Atoms | None = Field(
        default=None,
        description="Every matrix of a kind is a weighted sum of the stored blocks, with weights of each depth "
        "(MASA, arXiv 2508.04581; Basis Sharing, 2410.03765).",
    )
    ties: tuple[Kind, ...] | None = Field(
        default=None,
        description="Kinds tied by transposes inside a block: feed-forward down = up^T; attention value = key^T and "
        "output = query^T, which needs `model.kv_heads = model.heads`.",
    )
    norms: Literal["shared", "per_depth"] | None = Field(
        default=None, description="Depths that read one block share its norms' gains, or each depth has its own."
    )
    depth_embedding: bool | None = Field(
        default=None, description="Add a learned vector of each depth to the input of that depth."
    )
    injection: Literal["none", "additive", "linear"] | None = Field(
        default=None,
        description="Add the input of the first loop to the input of every later loop, or mix the two by a learned "
        "matrix.",
    )
    streams: Positive | None = Field(
        default=None,
        description="Residual streams. Each sub-layer of each depth has weights of its own by which it reads, mixes "
        "and writes them (static hyper-connections).",
    )
    embedding: Embedding | None = Field(
        default=None, description="The token embedding and the head (ALBERT, arXiv 1909.11942)."
    )
    kv: Literal["exact", "first", "last"] | None = Field(
        default=None,
        description="Keys and values: every depth computes its own; later loops reuse those of the first loop, in "
        "training too; or decoding keeps one cache for each block, which holds the last loop's.",
    )
    late: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        description="The fraction of training during which each block runs once; from then on the whole schedule runs.",
    )
    soft: SoftTying | None = Field(
        default=None,
        description="Soft tying: every depth keeps blocks of its own, and a penalty pulls together those that the "
        "schedule would let share. It is weight / 2 x the sum of their squared distances from their mean.",
    )

    @property
    def degrees(self) -> dict[str, Any]:
        """The degrees that are given, by their names in `Sharing`."""
        given = {name: getattr(self, name) for name in _DEGREES}
        return {name: value for name, value in given.items() if value is not None}

    def sharing(self, depth: int) -> Sharing:
        """The sharing at this depth; raises `InputError` where it cannot be built."""
        return replace(self._schedules(depth), **self.degrees)

    def _schedules(self, depth: int) -> Sharing:
        if self.attention is None or self.feed_forward is None:
            given = {name: getattr(self, name) for name in _NUMBERS}
            numbers = {name: value for name, value in given.items() if value is not None}
            return build_sharing(self.scheme or "independent", depth, **numbers)
        for kind, schedule in (("attention", self.attention), ("feed_forward", self.feed_forward)):
            if len(schedule) != depth:
                raise ValueError(f"{kind} has {len(schedule)} entries but model.depth = {depth}")
            check_schedule(kind, schedule, self.blocks)
        return Sharing(self.attention, self.feed_forward)

    @field_validator("name")
    @classmethod
    def _not_a_twins(cls, name: str) -> str:
        if name == "independent" or name.startswith("independent-L"):
            raise ValueError("'independent' and 'independent-L...' are the names of the reference and of the twins")
        return name

    @model_validator(mode="after")
    def _one_way(self) -> Variant:
        lists = (self.attention is not None, self.feed_forward is not None)
        if self.scheme is None and not all(lists) and (any(lists) or not self.degrees):
            raise ValueError("give either scheme, or both attention and feed_forward as lists of block indices")
        if self.scheme is not None and any(lists):
            raise ValueError(f"scheme = {self.scheme!r} and schedules are both given; one says it all")
        if self.scheme is not None and self.scheme not in SCHEMES:
            raise ValueError(f"scheme = {self.scheme!r} is not known{nearest(self.scheme, SCHEMES)}")
        return self
