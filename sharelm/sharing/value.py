"""The one type that every scheme is a value of."""

from __future__ import annotations

from dataclasses import dataclass

from sharelm.errors import InputError
from sharelm.sharing.checks import check_composition
from sharelm.sharing.composition import Composition
from sharelm.sharing.schedules import check_schedule
from sharelm.sharing.shape import KINDS


@dataclass(frozen=True)
class Sharing(Composition):
    """A composition of schedules and degrees that can be built; making any other raises `InputError`.

    `Composition` has the fields and what each means.
    """

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.feed_forward):
            raise InputError(
                f"attention has {len(self.attention)} depths and feed_forward {len(self.feed_forward)}; "
                "both schedules need one entry a depth"
            )
        for kind in KINDS:
            check_schedule(kind, self.groups(kind))
        check_composition(self)

    @property
    def is_independent(self) -> bool:
        """True for the plain model: no stored block is read twice and nothing is added."""
        return self == Sharing(tuple(range(self.depth)), tuple(range(self.depth)))
