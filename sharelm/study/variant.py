"""`[[variant]]`: a sharing the study asks about."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sharelm.sharing import SCHEMES, Atoms, Embedding, LowRank, Sharing, SoftTying, build_sharing
from sharelm.sharing.schedules import check_schedule
from sharelm.sharing.shape import Kind
from sharelm.study.node import Name, Node, Positive

_DEGREES = tuple(field.name for field in fields(Sharing) if field.name not in ("attention", "feed_forward"))
_NUMBERS = ("blocks", "prelude", "core", "coda", "rank", "first", "last")


class Variant(Node):
    """`[[variant]]`: a sharing the study asks about: a named scheme with its numbers, or two schedules; then degrees.

    A degree that is given takes the place of the scheme's. With degrees alone every depth has blocks of its own.
    """

    name: Name
    scheme: str | None = None
    blocks: Positive | None = None
    prelude: Annotated[int, Field(ge=0)] | None = None
    core: Positive | None = None
    coda: Annotated[int, Field(ge=0)] | None = None
    rank: Annotated[int, Field(ge=0)] | None = None
    first: Annotated[int, Field(ge=0)] | None = None
    last: Annotated[int, Field(ge=0)] | None = None
    attention: tuple[int, ...] | None = None
    feed_forward: tuple[int, ...] | None = None
    low_rank: LowRank | None = None
    diagonal: tuple[Kind, ...] | None = None
    atoms: Atoms | None = None
    ties: tuple[Kind, ...] | None = None
    norms: Literal["shared", "per_depth"] | None = None
    depth_embedding: bool | None = None
    injection: Literal["none", "additive", "linear"] | None = None
    streams: Positive | None = None
    embedding: Embedding | None = None
    kv: Literal["exact", "first", "last"] | None = None
    late: Annotated[float, Field(ge=0, lt=1)] | None = None
    soft: SoftTying | None = None

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
            from sharelm.study.load import nearest

            raise ValueError(f"scheme = {self.scheme!r} is not known{nearest(self.scheme, SCHEMES)}")
        return self
