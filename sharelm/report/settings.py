"""What every arm shares, what differs between them, and the study as TOML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tomli_w

from sharelm.tables.rows import TrialRow


@dataclass(frozen=True)
class Difference:
    """One setting whose value is not the same everywhere, and which arms have which value."""

    key: str
    values: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Settings:
    """The resolved settings of a study: equal in all trials, differing between arms, between seeds of an arm."""

    shared: list[tuple[str, str]]
    between_arms: list[Difference]
    between_seeds: list[str]
    unreadable: list[str]


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys; lists stay whole, as JSON."""
    if isinstance(value, Mapping) and value:
        flat: dict[str, str] = {}
        for key, inner in value.items():
            flat |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: json.dumps(value, ensure_ascii=False)}


def resolved(trial: TrialRow) -> dict[str, str] | None:
    """The settings of a trial, flat; None where they cannot be read."""
    try:
        return flatten(json.loads(trial.resolved_json))
    except (TypeError, ValueError):
        return None


def compare_settings(trials: Iterable[TrialRow]) -> Settings:
    """The settings of these trials."""
    by_arm: dict[str, list[dict[str, str]]] = {}
    unreadable = []
    for row in trials:
        settings = resolved(row)
        if settings is None:
            unreadable.append(row.trial)
        else:
            by_arm.setdefault(row.arm, []).append(settings)
    by_arm = {arm: rows for arm, rows in by_arm.items() if rows}
    keys = list(dict.fromkeys(key for rows in by_arm.values() for row in rows for key in row))
    shared, between_arms, between_seeds = [], [], []
    for key in keys:
        seen = {arm: [row.get(key, "absent") for row in rows] for arm, rows in by_arm.items()}
        if any(len(set(values)) > 1 for values in seen.values()):
            between_seeds.append(key)
            if len({frozenset(values) for values in seen.values()}) == 1:
                continue
        arms_of: dict[str, list[str]] = {}
        for arm, values in seen.items():
            arms_of.setdefault(", ".join(dict.fromkeys(values)), []).append(arm)
        if len(arms_of) == 1:
            shared.append((key, next(iter(arms_of))))
        else:
            between_arms.append(Difference(key, list(arms_of.items())))
    return Settings(shared, between_arms, between_seeds, unreadable)


def to_toml(tree: Mapping[str, Any]) -> str:
    """`Study.tree()` as TOML that reads back as the same study; keys without a value are left out: TOML has no null."""
    return tomli_w.dumps(_given(tree))


def _given(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _given(inner) for key, inner in value.items() if inner is not None}
    return [_given(inner) for inner in value] if isinstance(value, list) else value
