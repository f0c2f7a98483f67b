"""The one loop that carries out a study's steps: each as soon as what it needs is committed."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import ray

from jobs.failures import cause, sentence
from jobs.steps import Key, Step
from sharelm.errors import InputError
from sharelm.store import Store

AHEAD = 2  # tasks in flight for each that can run: one waits behind it, so that no CPU waits for the driver
SHOW_EVERY_S = 0.5

Groups = Sequence[Sequence[Step]]


def one_each(steps: Sequence[Step]) -> Groups:
    """Every step is a task of its own."""
    return [[step] for step in steps]


@dataclass(frozen=True)
class Kind:
    """How steps of one kind are carried out.

    `groups` makes tasks of steps that are ready, `start` starts one and returns the Ray task. At most `at_once` tasks
    are in flight: what Ray holds of a task takes the driver's memory and its time. A kind that runs `alone` starts
    when nothing else runs or can start: what it measures must not be disturbed.

    Steps of one task are carried out in their order. Where a task fails, the first step that is not committed has
    failed for good if the task began with it; the others, and one that the task came to later, go into a new task.
    So every step has all the tries of a task to itself, and one that fails stops no other.
    """

    doing: str  # what a live line calls it
    start: Callable[[Sequence[Step]], Any]
    at_once: int
    groups: Callable[[Sequence[Step]], Groups] = one_each
    alone: bool = False


class Loop:
    """Steps of a study by what they need; results that are committed already are not made again."""

    def __init__(self, steps: Sequence[Step], kinds: Mapping[str, Kind], store: Store, study: str) -> None:
        self._steps = {step.key: step for step in steps}
        self._kinds, self._store, self._study = kinds, store, study
        self._there = {(table, name) for table in self._tables() for name in store.steps(table, study)}
        self._ready: dict[str, list[Step]] = {kind: [] for kind in kinds}
        self._waiting: dict[str, deque[Sequence[Step]]] = {kind: deque() for kind in kinds}  # tasks to start
        self._running: dict[Any, Sequence[Step]] = {}  # the steps that each Ray task carries out
        self._in_flight: Counter[str] = Counter()
        self._alone = False  # whether what runs alone has begun
        self._ended = dict.fromkeys(self._there, "done")  # steps (and results) that are done or failed
        self.failures: list[tuple[Step, str]] = []  # what failed for good, and why in a sentence
        self.last_words: dict[str, str] = {}  # of what failed, with the tracebacks that Ray brings

    @property
    def missing(self) -> list[Step]:
        """The steps whose results were not committed when the loop was made."""
        return [step for key, step in self._steps.items() if key not in self._there]

    def states(self) -> Iterator[tuple[Step, str]]:
        """Every step with its state: waiting, running (its group's other steps too), done or failed."""
        running = {step.key for steps in self._running.values() for step in steps}
        for key, step in self._steps.items():
            yield step, self._ended.get(key, "running" if key in running else "waiting")

    def run(self, show: Callable[[Counter[str]], None], say: Callable[[str], None], stall_timeout_s: int) -> None:
        """Carry out every step that can be; `failures` names those that could not.

        `show` is told twice a second, and when a kind begins or ends, how many tasks of each kind are left; `say` is
        told of every task that failed. `stall_timeout_s` is how long workers of a group wait for each other. Raises
        `InputError` where a step finds that the study asks for what cannot be.
        """
        graph: TopologicalSorter[Key] = TopologicalSorter()
        for step in self._steps.values():
            graph.add(step.key, *step.needs)
            for key in step.makes:
                graph.add(key, step.key)
        graph.prepare()
        self._advance(graph)
        shown, doing = 0.0, set[str]()
        while self._launch():
            now = {kind for kind, count in self._in_flight.items() if count}
            if now != doing or time.monotonic() - shown >= SHOW_EVERY_S:  # so that what is quick is shown as well
                shown, doing = time.monotonic(), now
                waiting = Counter({kind: len(tasks) for kind, tasks in self._waiting.items()})
                show(+(self._in_flight + waiting))
            for task in self._finished():
                steps = self._running.pop(task)
                self._in_flight[steps[0].kind] -= 1
                try:
                    ray.get(task)
                except ray.exceptions.RayError as error:
                    why = cause(error)
                    self.last_words[_labels(steps)] = str(error)
                    if isinstance(why, InputError):
                        raise why from None
                    steps = self._failed(steps, sentence(why, stall_timeout_s), say)
                self._ended |= {step.key: "done" for step in steps}
                graph.done(*(step.key for step in steps))
            self._advance(graph)

    def _failed(self, steps: Sequence[Step], why: str, say: Callable[[str], None]) -> list[Step]:
        """Put what is left of a task that failed into a new one; returns its steps that are committed."""
        committed = [step for step in steps if self._committed(step.key)]
        left = [step for step in steps if step not in committed]
        if left and not committed:
            failed = left.pop(0)
            self.failures.append((failed, why))
            self._ended[failed.key] = "failed"
            say(f"{failed.label} failed: {why}")
        elif left:
            say(f"{left[0].label} is tried again: {why}")
        if left:
            self._waiting[left[0].kind].append(left)
        return committed

    def _finished(self) -> list[Any]:
        """Every task that has ended; none after half a second in which none did."""
        tasks = list(self._running)
        if not ray.wait(tasks, timeout=SHOW_EVERY_S, fetch_local=False)[0]:
            return []
        done, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0, fetch_local=False)
        return done

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
        """Start what is ready as far as there is room; whether anything runs."""
        for kind, how in self._kinds.items():
            if not how.alone:
                self._start(kind)
        if not self._running:
            self._alone = True
        elif any(count and not self._kinds[kind].alone for kind, count in self._in_flight.items()):
            self._alone = False
        if self._alone:  # a measurement that failed does not keep the others from it
            for kind in self._kinds:
                self._start(kind)
        return bool(self._running)

    def _start(self, kind: str) -> None:
        how, waiting = self._kinds[kind], self._waiting[kind]
        if self._ready[kind]:
            steps, self._ready[kind] = self._ready[kind], []
            waiting.extend(how.groups(steps))
        while waiting and self._in_flight[kind] < how.at_once:
            group = waiting.popleft()
            self._running[how.start(group)] = group
            self._in_flight[kind] += 1


def _labels(steps: Sequence[Step]) -> str:
    first, last = steps[0].label, steps[-1].label
    return first if len(steps) == 1 else f"{first} to {last}"
