"""One run of a study over a Ray that is there: what is not committed yet is trained, scored and measured."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.board import Board, covered
from jobs.conclude import conclude
from jobs.failures import cause, sentence
from jobs.measure import CostMeter, TaskContext, score_trial
from jobs.nodes import fit, lacking, living_nodes, machine
from jobs.progress import Progress
from jobs.train import Group, split, train_group
from sharelm.errors import InputError, ShareLMError
from sharelm.machine import Machine
from sharelm.steps import cost_step, proxy_step, score_step, speed_step, trial_step
from sharelm.store import Manifest, Store
from sharelm.study import Measured, Plan, Speeds, Study, Trial, Tried, expand, proxies, timed_pairs, tuning
from sharelm.study.arm import Model
from sharelm.study.memory import least_stage
from sharelm.study.packing import check_room, trials_per_gpu
from sharelm.study.tune import Tuning

TRAINING, EVALUATION, COST, SPEED = "training", "evaluating", "measuring cost", "measuring training speed"
Pending = dict[Any, tuple[str, str]]  # of a Ray task: one of these, and what a message calls it


@dataclass
class Work:
    """What a study still needs, and what it rests on, by step name."""

    trials: dict[str, Trial] = field(default_factory=dict)
    scores: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    costs: dict[str, tuple[Any, ...]] = field(default_factory=dict)


def plan_work(plan: Plan, data: str, base: Path, machine: Machine) -> Work:
    """Every step of the study by its name."""
    study = plan.study
    work = Work({trial_step(study, trial, data, machine): trial for trial in plan.trials})
    for step, trial in work.trials.items():
        for task in study.evaluation.task:
            for shard in range(task.shards):
                work.scores[score_step(step, task, shard, base)] = (trial, step, task, shard)
        for workload in study.cost.workload:  # a seed changes no cost: its trials are the repeats of the measurement
            work.costs[cost_step(step, workload, study, machine)] = (trial, step, workload)
    return work


def _committed(store: Store, table: str, study: str) -> set[str]:
    return {manifest.step for manifest in store.manifests(table, study)}


class Driver:
    """One run of a study over a Ray that is there."""

    def __init__(
        self, study: Study, base: Path, store: Store, data: str, items: dict[str, list[Any]], progress: Progress
    ) -> None:
        self.study, self.base, self.store, self.data = study, base, store, data
        self.items, self.progress = items, progress
        nodes = living_nodes()
        self.have = fit(study.training, nodes)
        self.machine = machine(study, self.have, nodes, store.uri, data)
        models = expand(study).models
        together, why = trials_per_gpu(models, study.training) if self.have.use_gpu else (1, None)
        self.study = study = study.decided(trials_per_gpu=together)
        self.have = fit(study.training, nodes)
        if why is not None:
            progress.stage(why)
        if study.training.zero_stage == "auto":
            stage, why = least_stage(models, study.training, self.machine.precision, self.machine.memory)
            self.study = study = study.decided(zero_stage=stage)
            progress.stage(why)
        check_room(models, study.training, self.machine.precision, self.machine.memory)
        self.board: Any = Board.options(scheduling_strategy=_here()).remote()  # type: ignore[attr-defined]
        self.context = TaskContext(study, store.uri, data, self.machine, self.have.evaluation_cpus, self.board)
        self.plan = expand(study)
        self.work = Work()
        self.missing: dict[str, Trial] = {}
        self.errors: list[str] = []

    def run(self) -> None:
        """Train, evaluate and measure whatever is not committed yet."""
        speeds = self._time()
        self.plan = expand(self.study, Measured(speeds))
        tunings = {} if self.errors else self._tune()
        if self.errors:
            return
        self.plan = expand(self.study, Measured(speeds, tunings))
        self.work = plan_work(self.plan, self.data, self.base, self.machine)
        there = _committed(self.store, "trials", self.study.name)
        self.missing = {step: trial for step, trial in self.work.trials.items() if step not in there}
        done = len(self.work.trials) - len(self.missing)
        self.progress.expect({t.name: t.arm.training(self.study.training).steps for t in self.missing.values()})
        self.progress.stage(
            f"study {self.study.name}: {len(self.work.trials)} trials, {done} already there; {self.machine.device_name}"
        )
        self._train_and_score()
        if not self.errors:
            self._measure()

    def _time(self) -> dict[str, Speeds]:
        """Know how long the time axis's twins learn, from measured speeds."""
        pairs = {speed_step(self.study, pair, self.machine): pair for pair in timed_pairs(self.study)}
        known = _committed(self.store, "speeds", self.study.name)
        untimed = tuple(pair for step, pair in pairs.items() if step not in known)
        if untimed:
            self._wait({self._group(timed=untimed): (SPEED, "training speeds")})
            if self.errors:
                return {}
        facts = {manifest.step: manifest.facts for manifest in self.store.manifests("speeds", self.study.name)}
        return {
            variant.name: Speeds(facts[step]["variant_tokens_per_second"], facts[step]["twin_tokens_per_second"])
            for step, (variant, _) in pairs.items()
        }

    def _tune(self) -> dict[Model, Tuning]:
        """Know every arm's learning rate, from proxies, where the study tunes them."""
        training = self.study.training
        if training.tune is None:
            return {}
        steps = {proxy_step(self.study, proxy, self.data, self.machine): proxy for proxy in proxies(self.plan)}
        known = _committed(self.store, "proxies", self.study.name)
        missing = [proxy for step, proxy in steps.items() if step not in known]
        self.progress.expect({proxy.name: proxy.arm.training(training).steps for proxy in missing}, "proxies")
        groups = split(missing, self.have.parallel_groups, training.trials_per_group)
        self._wait(
            {self._group(proxies=part): (TRAINING, f"proxies {part[0].name} to {part[-1].name}") for part in groups}
        )
        if self.errors:
            return {}
        facts = {manifest.step: manifest.facts for manifest in self.store.manifests("proxies", self.study.name)}
        tried: dict[Any, list[Tried]] = {}
        for step, proxy in steps.items():
            found = Tried(*(facts[step][name] for name in ("learning_rate", "loss_nats", "training_seconds")))
            tried.setdefault(proxy.arm.model, []).append(found)
        return {model: tuning(training.tune.choose, those) for model, those in tried.items()}

    def _group(self, **work: Any) -> Any:
        """A worker group at work on these."""
        return train_group.options(scheduling_strategy=_here()).remote(
            Group(self.study, self.data, self.machine, self.store.uri, self.have, self.board, **work)
        )

    def _train_and_score(self) -> None:
        have = self.have
        scored = _committed(self.store, "scores", self.study.name)
        unscored = {work[2].name for step, work in self.work.scores.items() if step not in scored}
        # computed here, since a task's file need not lie on every node
        items = {name: ray.put(found) for name, found in self.items.items() if name in unscored}
        options = score_trial.options(num_cpus=have.evaluation_cpus, num_gpus=1 if have.use_gpu else 0)

        def score(trained: set[str]) -> Pending:
            trained = trained - self._diverged()
            return {
                options.remote(self.context, trial, trial_at, task, items[task.name], shard, step): (
                    EVALUATION,
                    f"scores of {trial.name} on {task.name}",
                )
                for step, (trial, trial_at, task, shard) in self.work.scores.items()
                if trial_at in trained and step not in scored
            }

        groups: Pending = {}
        after: dict[Any, Callable[[], Pending]] = {}
        for part in split(list(self.missing.values()), have.parallel_groups, self.study.training.trials_per_group):
            ref = self._group(trials=part)
            groups[ref] = (TRAINING, f"trials {part[0].name} to {part[-1].name}")
            steps = {step for step, trial in self.missing.items() if trial in part}
            after[ref] = partial(score, steps)
        self._wait({**groups, **score(set(self.work.trials) - set(self.missing))}, after)

    def _measure(self) -> None:
        have = self.have
        measured, diverged = _committed(self.store, "costs", self.study.name), self._diverged()
        missing = {
            step: work for step, work in self.work.costs.items() if step not in measured and work[1] not in diverged
        }
        if not missing:
            return
        options = CostMeter.options(num_cpus=have.cost_cpus, num_gpus=1 if have.use_gpu else 0)  # type: ignore[attr-defined]
        meter = options.remote()
        context = ray.put(replace(self.context, threads=have.cost_cpus))  # the driver outlives the meter's restarts
        self._wait(
            {
                meter.measure.remote(context, trial, at, workload, step): (
                    COST,
                    f"cost of {trial.name} in {workload.name}",
                )
                for step, (trial, at, workload) in missing.items()
            }
        )

    def _diverged(self) -> set[str]:
        """Steps of trials that diverged: they have no weights to score."""
        return {m.step for m in self.store.manifests("trials", self.study.name) if m.facts["error"]}

    def _wait(self, pending: Pending, then: dict[Any, Callable[[], Pending]] | None = None) -> None:
        """Wait for all of these; what `then` returns for one that is done is waited for as well."""
        training = self.study.training

        while pending:
            ready, _ = ray.wait(list(pending), timeout=0.5)
            for ref in ready:
                _, what = pending.pop(ref)
                try:
                    ray.get(ref)
                except ray.exceptions.RayError as error:
                    why = cause(error)
                    if isinstance(why, InputError):
                        raise why from None
                    self.errors.append(f"{what}: {sentence(why, training.stall_timeout_s)}")
                else:
                    pending |= then[ref]() if then and ref in then else {}
            left = Counter(kind for kind, _ in pending.values())
            if TRAINING in left:
                wants = lacking(training.workers, self.have, living_nodes())
                self.progress.show(wants or self.progress.training(ray.get(self.board.read.remote())))
            elif left:
                self.progress.show(", ".join(f"{kind}: {count} left" for kind, count in left.items()))

    def finish(self, step: str, revision: int, started: float) -> Manifest:
        """Decide and report; raises where something is missing."""
        if self.errors:
            raise ShareLMError(f"not finished: {'; '.join(self.errors)}; run again to carry on from what is committed")
        self.progress.show("comparing and reporting")
        spans = ray.get(self.board.read.remote()).busy.values()
        wall = time.time() - started
        facts = {
            "revision": revision,
            "device": self.machine.device_name,
            "precision": self.machine.precision,
            "wall_seconds": wall,
            "compute_seconds": covered((start, end) for _, start, end in spans),
            "seconds": {
                kind: covered((start, end) for k, start, end in spans if k == kind)
                for kind in ("training", "evaluation", "cost")
            },
            "tokens_per_second": {name: vars(speeds) for name, speeds in self.plan.speeds.items()},
            "data": self.store.find("data", self.study.name, self.data).facts,  # type: ignore[union-attr]
        }
        steps = {
            "trials": self.work.trials.keys(),
            "steps": self.work.trials.keys(),
            "scores": self.work.scores.keys(),
            "costs": self.work.costs.keys(),
        }
        return conclude(self.plan, self.store, step, steps, facts)


def _here() -> Any:
    """The driver's node, for what must live as long as the driver does; any other node may die."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
