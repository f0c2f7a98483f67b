"""The one loop that carries out a study's steps: each as soon as what it needs is committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import ray

from jobs.failures import cause, sentence
from jobs.steps import Key, Step
from sharelm.errors import InputError
from sharelm.store import Store

Launched = dict[Any, Sequence[Step]]  # the steps that each Ray task carries out


@dataclass(frozen=True)
class Kind:
    """How steps of one kind are carried out.

    `launch` starts steps that are ready and returns the Ray tasks. A kind that runs `alone` starts when nothing else
    runs or can start, and not in a run in which something failed: what it measures must not be disturbed.
    """

    doing: str  # what a live line calls it
    launch: Callable[[Sequence[Step]], Launched]
    alone: bool = False


class Loop:
    """Steps of a study by what they need; results that are committed already are not made again."""

    def __init__(self, steps: Sequence[Step], kinds: Mapping[str, Kind], store: Store, study: str) -> None:
        self._steps = {step.key: step for step in steps}
        self._kinds, self._store, self._study = kinds, store, study
        self._there = {(table, m.step) for table in self._tables() for m in store.manifests(table, study)}
        self._ready: dict[str, list[Step]] = {kind: [] for kind in kinds}
        self._running: Launched = {}
        self.failures: list[str] = []
        self.last_words: dict[str, str] = {}  # of what failed, with the tracebacks that Ray brings

    @property
    def missing(self) -> list[Step]:
        """The steps whose results were not committed when the loop was made."""
        return [step for key, step in self._steps.items() if key not in self._there]

    def run(self, show: Callable[[Counter[str]], None], stall_timeout_s: int) -> None:
        """Carry out every step that can be; `failures` says in sentences which could not.

        `show` is told twice a second how many tasks of each kind are left. `stall_timeout_s` is how long workers of a
        group wait for each other. Raises `InputError` where a step finds that the study asks for what cannot be.
        """
        graph: TopologicalSorter[Key] = TopologicalSorter()
        for step in self._steps.values():
            graph.add(step.key, *step.needs)
            for key in step.makes:
                graph.add(key, step.key)
        graph.prepare()
        self._advance(graph)
        while self._launch():
            done, _ = ray.wait(list(self._running), timeout=0.5)
            for task in done:
                steps = self._running.pop(task)
                try:
                    ray.get(task)
                except ray.exceptions.RayError as error:
                    why = cause(error)
                    self.last_words[_labels(steps)] = str(error)
                    if isinstance(why, InputError):
                        raise why from None
                    self.failures.append(f"{_labels(steps)}: {sentence(why, stall_timeout_s)}")
                    steps = [step for step in steps if self._committed(step.key)]  # before the one that failed
                graph.done(*(step.key for step in steps))
            self._advance(graph)
            show(Counter(steps[0].kind for steps in self._running.values()))

    def _tables(self) -> set[str]:
        """The tables of all steps and of all that they need."""
        return {table for step in self._steps.values() for table, _ in (step.key, *step.needs, *step.makes)}

    def _advance(self, graph: TopologicalSorter[Key]) -> None:
        """Sort what nothing is in the way of any more: steps to start, and results, which make way for others.

        A result that its step did not give stays in the way: what needs it is never started.
        """
        while found := graph.get_ready():
            for key in found:
                if key in self._there:
                    graph.done(key)
                elif key in self._steps:
                    self._ready[self._steps[key].kind].append(self._steps[key])
                elif self._committed(key):
                    graph.done(key)

    def _committed(self, key: Key) -> bool:
        """Whether this result is there now."""
        table, name = key
        return self._store.find(table, self._study, name) is not None

    def _launch(self) -> bool:
        """Start the steps that are ready; whether anything runs."""
        self._start(kind for kind, how in self._kinds.items() if not how.alone)
        if not self._running and not self.failures:
            self._start(self._kinds)
        return bool(self._running)

    def _start(self, kinds: Iterable[str]) -> None:
        for kind in kinds:
            steps, self._ready[kind] = self._ready[kind], []
            if steps:
                self._running |= self._kinds[kind].launch(steps)


def _labels(steps: Sequence[Step]) -> str:
    first, last = steps[0].label, steps[-1].label
    return first if len(steps) == 1 else f"{first} to {last}"
