"""Schedules: one index list a sub-layer kind, saying which stored block each depth reads."""

from __future__ import annotations

from sharelm.errors import InputError

Schedule = tuple[int, ...]


def check_schedule(kind: str, schedule: Schedule, stored: int | None = None) -> None:
    """Raise `InputError` for a schedule that is empty, reads a block that is not stored, or leaves one unread."""
    if not schedule:
        raise InputError(f"{kind} is empty; a schedule needs one block index a depth")
    stored = max(schedule) + 1 if stored is None else stored
    for depth, block in enumerate(schedule):
        if not 0 <= block < stored:
            raise InputError(
                f"{kind}[{depth}] = {block} names a block that is not stored; {stored} are (0 to {stored - 1})"
            )
    unread = sorted(set(range(stored)) - set(schedule))
    if unread:
        raise InputError(f"{kind} never reads stored block {unread[0]}; schedules must name every stored block")
