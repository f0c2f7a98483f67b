"""The steps that a study consists of, as values: what each is called, needs, takes and works on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jobs.context import Context
from sharelm.artefact import MODELS
from sharelm.steps import cost_step, model_step, proxy_step, score_step, speed_step, trained, trial_step
from sharelm.study import Arm, Plan, Study, Trial, proxies, timed_pairs
from sharelm.study.cost import Workload
from sharelm.study.evaluation import Task

Key = tuple[str, str]  # a table and the digest of a step's spec: where its result is committed


@dataclass(frozen=True)
class Step:
    """One unit of work. Whoever carries it out commits its result under `key`.

    `makes` are results that it commits besides, or leaves out where it fails in its own way: a trial that diverges
    gives no model. `resources` are what Ray reserves for it (a step of training: for each of its workers).
    """

    kind: str  # of `jobs.kinds`
    table: str
    name: str  # the digest of its spec
    label: str  # what a message calls it
    resources: Mapping[str, float]
    payload: Any  # what it works on
    needs: tuple[Key, ...] = ()
    makes: tuple[Key, ...] = ()

    @property
    def key(self) -> Key:
        """Where its result is committed."""
        return self.table, self.name


class Scoring(NamedTuple):
    """What a score step works on: a model (by its step) and one shard of a task's items."""

    labels: Mapping[str, Any]  # columns that say which trial the model is of
    model: str
    task: Task
    shard: int


class Costing(NamedTuple):
    """What a cost step works on: a model (by its step) under a workload."""

    labels: Mapping[str, Any]  # columns that say which trial the model is of
    model: str
    workload: Workload


def speed_steps(at: Context) -> dict[str, Step]:
    """The step that times each variant beside the model of its time twin, by the variant's name."""

    def step(pair: tuple[Arm, Arm]) -> Step:
        label = f"training speed of {pair[0].name}"
        return Step("speed", "speeds", speed_step(at.study, pair, at.machine), label, at.have.worker, pair)

    return {pair[0].name: step(pair) for pair in timed_pairs(at.study)}


def proxy_steps(plan: Plan, at: Context) -> list[Step]:
    """A step for every proxy of the plan; none where learning rates are not tuned."""
    if plan.study.training.tune is None:
        return []
    found = [(proxy_step(plan.study, proxy, at.data, at.machine), proxy) for proxy in proxies(plan)]
    return [Step("proxy", "proxies", name, f"proxy {proxy.name}", at.have.worker, proxy) for name, proxy in found]


def study_steps(plan: Plan, at: Context, base: Path) -> list[Step]:
    """Every trial of the plan, and what is scored and measured of it. `base` is the folder of the study's file."""
    return [step for trial in plan.trials for step in _trial_steps(plan.study, trial, at, base)]


def _trial_steps(study: Study, trial: Trial, at: Context, base: Path) -> Iterator[Step]:
    """A trial and all that rests on it.

    A seed changes no cost: the trials of an arm are the repeats of its measurement.
    """
    name = trial_step(study, trial, at.data, at.machine, at.night)
    model = model_step(trained(name))
    key = (MODELS, model)
    yield Step("trial", "trials", name, f"trial {trial.name}", at.have.worker, trial, makes=(key,))
    for task in study.evaluation.task:
        for shard in range(task.shards):
            step, label = score_step(model, task, shard, base), f"scores of {trial.name} on {task.name}"
            yield Step("score", "scores", step, label, at.have.score, Scoring(trial.labels, model, task, shard), (key,))
    for workload in study.cost.workload:
        step, label = cost_step(model, workload, study, at.machine), f"cost of {trial.name} in {workload.name}"
        yield Step("cost", "costs", step, label, at.have.cost, Costing(trial.labels, model, workload), (key,))
