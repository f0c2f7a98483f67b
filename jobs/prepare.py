"""A study's data: `python -m jobs.prepare --study FILE --store URI` commits them, on a machine without GPU or Ray.

It is also how a study's driver begins, which finds committed what was prepared before.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.program import program
from sharelm.digest import digest
from sharelm.store import Manifest, Store, open_store
from sharelm.store.studies import check_study
from sharelm.study import Study, load_study
from sharelm.tables import TABLES

if TYPE_CHECKING:
    from jobs.progress import Progress


class Request(NamedTuple):
    """A study, the folder it is in, a store that takes writes, and the step of the study's data."""

    study: Study
    base: Path
    store: Store
    data: str


def read_request(path: Path, uri: str) -> Request:
    """The request of a user; raises where the study, its sources or the store cannot be read, or the store written."""
    from sharelm.data import data_spec

    study, base = load_study(path), path.resolve().parent
    store = open_store(uri)
    store.check_writable()
    return Request(study, base, store, digest(data_spec(study.data, study.model.context, base)))


def check_recorded(study: Study, store: Store, origin: str) -> None:
    """Raise where the study changes what was recorded under its name, or a committed row cannot be read."""
    check_study(store, study, origin)
    for table in TABLES:
        store.read(table, study.name)


def prepare_data(request: Request, progress: Progress) -> tuple[Manifest, dict[str, list[Any]]]:
    """Commit the data where they are not; what every task finds to score in them, by the task's name."""
    from sharelm.data import open_corpus, prepare

    study, base, store, data = request
    manifest = store.find("data", study.name, data)
    if manifest is None:
        progress.stage("preparing data")
        manifest = prepare(study.data, study.model.context, base, store, study.name)
    from sharelm.evaluation import check_room, task_items

    corpus = open_corpus(store, manifest)
    items = {task.name: task_items(task, corpus, base) for task in study.evaluation.task}
    for task in study.evaluation.task:
        check_room(task, items[task.name], corpus.tokenizer, study.model.context)
    return manifest, items


def prepare_study(path: Path, uri: str) -> tuple[Manifest, bool]:
    """The manifest of the study's data, and whether it was there already; the study is not recorded yet."""
    from jobs.progress import Progress

    request = read_request(path, uri)
    check_recorded(request.study, request.store, str(path))
    was_there = request.store.find("data", request.study.name, request.data) is not None
    with Progress() as progress:
        manifest, _ = prepare_data(request, progress)
    return manifest, was_there


def _say(store: str, data: Manifest, was_there: bool) -> None:
    facts = data.facts
    print(
        f"data of study {data.study!r} {'were there already' if was_there else 'are prepared'} in {store}: "
        f"{facts['training_tokens']:,} training and {facts['validation_tokens']:,} validation tokens, step {data.step}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Prepare a study's data from the command line; returns the exit code."""
    return program("jobs.prepare", "Prepare a study's data.", prepare_study, _say, arguments)


if __name__ == "__main__":
    sys.exit(main())
