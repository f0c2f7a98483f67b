"""The recorded revisions of each study: a study may grow but not change."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sharelm.errors import InputError, IntegrityError
from sharelm.steps import rule_digest
from sharelm.store.store import Store
from sharelm.study import Study
from sharelm.study.growth import changes
from sharelm.study.load import study_from_tree


def record_study(store: Store, study: Study, origin: str) -> int:
    """Record this study under its name, unless the newest revision is the same. Returns the revision's number.

    The digest of the rule by which it will be judged stands beside it. `origin` is the study's name in messages. Raises
    `InputError` if it changes what was recorded.
    """
    tree = study.tree()
    while True:
        number, recorded = check_study(store, study, origin)
        if recorded is not None and recorded.tree() == tree:
            return number
        record = {
            "recorded_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "rule": rule_digest(study),
            "study": tree,
        }
        if store.objects.put_new(_key(study.name, number + 1), json.dumps(record, indent=1).encode()):
            return number + 1


def check_study(store: Store, study: Study, origin: str) -> tuple[int, Study | None]:
    """The number and content of the newest revision (0 and None if there is none), which this study may only grow.

    Raises `InputError` if it changes what was recorded.
    """
    number, recorded = _newest(store, study.name)
    if recorded is not None:
        changed = changes(recorded.tree(), study.tree())
        if changed:
            others = len(changed) - 1
            more = f" (and {others} more change{'s' if others > 1 else ''})" if others else ""
            raise InputError(
                f"{origin}: study {study.name!r} was recorded in {store.uri} with {changed[0]}{more}; "
                "a study may grow but not change: give it another name"
            )
    return number, recorded


def recorded_rule(store: Store, name: str) -> str | None:
    """The digest of the rule that was recorded with the study's first revision, before its first step.

    None where nothing was recorded, or by a version that recorded no rule.
    """
    if not store.objects.list(f"studies/study={name}"):
        return None
    found: str | None = _record(store, name, 1).get("rule")
    return found


def latest_study(store: Store, name: str) -> Study | None:
    """The newest revision of the study of this name, or None if none was recorded."""
    return _newest(store, name)[1]


def _key(name: str, number: int) -> str:
    return f"studies/study={name}/revision-{number:04}.json"


def _newest(store: Store, name: str) -> tuple[int, Study | None]:
    """The number and content of the newest revision; 0 and None if there is none."""
    keys = store.objects.list(f"studies/study={name}")
    if not keys:
        return 0, None
    number = len(keys)
    tree = _record(store, name, number)["study"]
    return number, study_from_tree(_renamed(tree), store.objects.address(_key(name, number)))


def _record(store: Store, name: str, number: int) -> dict[str, Any]:
    """One revision as it was recorded; `IntegrityError` where it is not one."""
    key = _key(name, number)
    try:
        record: dict[str, Any] = json.loads(store.objects.get(key))
        record["study"]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        where = store.objects.address(key)
        raise IntegrityError(f"{where} is not the record of a study ({type(error).__name__})") from error
    return record


def _renamed(tree: dict[str, Any]) -> dict[str, Any]:
    """A recorded study by today's names of settings, so that what was recorded stays readable."""
    parts = [(tree.get("training", {}), "schedule", "learning_rate_schedule")]
    parts += [(variant, "lanes", "streams") for variant in tree.get("variant", [])]
    for part, old, new in parts:
        if old in part:
            part[new] = part.pop(old)
    return tree
