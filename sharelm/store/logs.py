"""What a run of a study wrote: kept in the store, since a cluster forgets it when it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sharelm.store.manifest import Manifest
from sharelm.store.store import Store

LOGS, RUN, FAILURES = "logs", "run.log", "failures.log"
MOST_LINES = 5000  # of a run, the last ones; a failed worker's are cut to as many characters below
MOST_CHARACTERS = 20_000


def commit_log(
    store: Store, study: str, lines: Sequence[str], failures: Mapping[str, str], facts: Mapping[str, Any]
) -> Manifest:
    """Commit a run's lines, and of everything that failed what it is called and its last words.

    Every run has a log of its own, named by the time of its end by the clock of its machine: the newest is so, too.
    """
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    told = [f"== {what}\n{words[-MOST_CHARACTERS:]}" for what, words in failures.items()]
    files: dict[str, Any] = {RUN: _text(lines[-MOST_LINES:])}
    if told:
        files[FAILURES] = _text(told)
    return store.commit(LOGS, study, name, files, facts=facts)


def newest_log(store: Store, study: str) -> str | None:
    """The lines of the study's newest run and the last words of what failed in it; None where no run is known."""
    runs = store.manifests(LOGS, study)
    if not runs:
        return None
    newest = runs[-1]  # sorted by name, which is a time
    return "".join(store.read_bytes(newest, record.name).decode() for record in reversed(newest.files))


def _text(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
