"""A study may grow, never change: what differs between two studies of one name beyond what may be added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sharelm.study.tree import EXECUTION_SETTINGS

# Entries may be added here: those of the first kind are known by their name, of the second by themselves.
_NAMED = {"variant", "evaluation.task", "cost.workload"}
_VALUES = {"study.seeds", "twins.axes", "twins.ladder"}

# How the work is cut up, or what only an estimate uses: no result depends on it.
_FREE = EXECUTION_SETTINGS | {"evaluation.task.shards"}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What the new study changes of the old (both as `Study.tree` gives them); nothing if it only grew.

    Each is a clause for a message: `training.tokens = 1000, now 2000` or `variant 'cycle', now gone`.
    """
    return [*_fields(old, new, kind="", place=""), *_served_first(old, new), *_seeded_first(old, new)]


def _served_first(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """The memory axis holds the first workload's bytes equal: another first one would make other twins."""
    was, now = (tree["cost"]["workload"][0]["name"] for tree in (old, new))
    if "memory" in old["twins"]["axes"] and was != now:
        yield f"{was!r} as the first cost.workload, which sets the memory axis, now {now!r}"


def _seeded_first(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Learning rates are chosen with the first seed: another first one could choose others."""
    was, now = (tree["study"]["seeds"][0] for tree in (old, new))
    if old["training"]["tune"] is not None and was in new["study"]["seeds"] and was != now:
        yield f"{was} as the first of study.seeds, which training.tune takes, now {now}"


def _fields(old: Mapping[str, Any], new: Mapping[str, Any], kind: str, place: str) -> Iterator[str]:
    """`kind` is a path of field names; `place` also says which entry of a list, for the reader."""
    for key in dict.fromkeys([*old, *new]):
        below = [f"{path}.{key}" if path else key for path in (kind, place)]
        yield from _differences(old.get(key), new.get(key), *below)


def _differences(old: Any, new: Any, kind: str, place: str) -> Iterator[str]:
    if old == new or kind in _FREE:
        return
    if kind in _VALUES:
        yield from (f"{place} {value!r}, now gone" for value in old if value not in new)
    elif kind in _NAMED:
        later = {entry["name"]: entry for entry in new}
        for entry in old:
            name = entry["name"]
            if name in later:
                yield from _fields(entry, later[name], kind, f"{place}[{name}]")
            else:
                yield f"{place} {name!r}, now gone"
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _fields(old, new, kind, place)
    elif _is_tables(old) and _is_tables(new):
        if len(old) != len(new):
            yield f"{len(old)} entries in {place}, now {len(new)}"
        else:
            for index, (before, after) in enumerate(zip(old, new, strict=True)):
                yield from _fields(before, after, kind, f"{place}[{index}]")
    else:
        was = "not set" if old is None else f"= {old!r}"
        yield f"{place} {was}, now {'not set' if new is None else repr(new)}"


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value)
