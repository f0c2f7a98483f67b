"""One run of a study over a Ray that is there: what is not committed yet is trained, scored and measured."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import ray

from jobs.board import Board, Snapshot, covered
from jobs.conclude import conclude
from jobs.context import Context
from jobs.kinds import TRAINS, kinds
from jobs.layout import lay_out
from jobs.limits import Spending
from jobs.loop import Loop
from jobs.metrics import report_steps
from jobs.nodes import here, lacking, living_nodes
from jobs.prepare import Request
from jobs.progress import Progress
from jobs.steps import Step, proxy_steps, speed_steps, study_steps
from sharelm.digest import digest
from sharelm.errors import ShareLMError
from sharelm.store import Manifest
from sharelm.study import Measured, Plan, Speeds, Tried, expand, tuning
from sharelm.study.arm import Model
from sharelm.study.tune import Tuning


def not_finished(failed: Sequence[tuple[Step, str]]) -> str:
    """The sentence about steps that failed for good."""
    failures = "; ".join(f"{step.label}: {why}" for step, why in failed)
    return f"not finished: {failures}; run again to carry on from what is committed"


class Driver:
    """One run of a study: steps that measure what the plan rests on, then those of the plan."""

    def __init__(
        self, request: Request, items: Mapping[str, list[Any]], progress: Progress, night: str | None = None
    ) -> None:
        study, self._base, self._store, data = request
        self._progress = progress
        study, have, machine = lay_out(study, self._store.uri, data, progress.stage)
        self._board: Any = Board.options(scheduling_strategy=here()).remote(study)  # type: ignore[attr-defined]
        self._context = Context(study, self._store.uri, data, machine, have, self._board, night)
        self._kinds = kinds(self._context, items)
        self._went_on = False
        self.failed: list[tuple[Step, str]] = []  # steps of the plan that failed for good, and why
        self.last_words: dict[str, str] = {}  # of everything that failed
        self._spending = Spending(study, self._store)
        self._lengths: dict[str, int] = {}  # optimizer steps of each trial (or proxy) that is being trained

    def run(self) -> tuple[Plan, list[Step]]:
        """The plan and all its steps, carried out but for those in `failed`.

        Raises `ShareLMError` where something failed that the plan rests on.
        """
        study = self._context.study
        speeds = self._speeds()
        tunings = self._tunings(expand(study, Measured(speeds)))
        plan = expand(study, Measured(speeds, tunings))
        steps = study_steps(plan, self._context, self._base)
        loop = self._loop(steps)
        missing = sum(step.kind == "trial" for step in loop.missing)
        self._went_on = missing < len(plan.trials)
        self._progress.stage(
            f"study {study.name}: {len(plan.trials)} trials, {len(plan.trials) - missing} already there; "
            f"{self._context.machine.device_name}"
        )
        self.failed = self._carry_out(loop)
        return plan, steps

    def _speeds(self) -> dict[str, Speeds]:
        """Training speeds of each variant and of the model of its time twin, by the variant's name."""
        steps = speed_steps(self._context)
        facts = self._facts(list(steps.values()))
        names = ("variant_tokens_per_second", "twin_tokens_per_second")
        return {variant: Speeds(*(facts[step.name][name] for name in names)) for variant, step in steps.items()}

    def _tunings(self, plan: Plan) -> dict[Model, Tuning]:
        """Every model's learning rate, chosen from its proxies, where the study tunes them."""
        tune = plan.study.training.tune
        if tune is None:
            return {}
        steps = proxy_steps(plan, self._context)
        facts = self._facts(steps)
        tried: dict[Model, list[Tried]] = {}
        for step in steps:
            found = (facts[step.name][name] for name in ("learning_rate", "loss_nats", "training_seconds"))
            tried.setdefault(step.payload.arm.model, []).append(Tried(*found))
        return {model: tuning(tune.choose, those) for model, those in tried.items()}

    def _facts(self, steps: Sequence[Step]) -> dict[str, Mapping[str, Any]]:
        """The facts that each of these steps committed, by its name; steps that are missing are carried out."""
        failed = self._carry_out(self._loop(steps))
        if failed:
            raise ShareLMError(not_finished(failed))
        tables = {step.table for step in steps}
        return {m.step: m.facts for table in tables for m in self._store.manifests(table, self._context.study.name)}

    def _loop(self, steps: Sequence[Step]) -> Loop:
        return Loop(steps, self._kinds, self._store, self._context.study.name)

    def _carry_out(self, loop: Loop) -> list[tuple[Step, str]]:
        """Run the loop to its end; the steps that failed for good, and why."""
        training = self._context.study.training
        self._spending.check(0.0, sum(step.kind == "trial" for step in loop.missing))
        for kind, plural in TRAINS.items():
            trials = [step.payload for step in loop.missing if step.kind == kind]
            if trials:
                self._lengths = {trial.name: trial.arm.training(training).steps for trial in trials}
                self._progress.expect(self._lengths, plural)
        try:
            loop.run(partial(self._show, loop), self._progress.stage, training.stall_timeout_s)
        finally:
            self.last_words |= loop.last_words
        self._report(loop, Snapshot())
        return loop.failures

    def _show(self, loop: Loop, running: Counter[str]) -> None:
        """Say and report what is going on, by the kinds of the tasks that run; raises `LimitReached`."""
        board = ray.get(self._board.read.remote())
        self._spending.check(board.device_seconds, self._progress.left(board))
        if TRAINS.keys() & running.keys():
            wants = lacking(self._context.study.training.workers, self._context.have, living_nodes())
            self._progress.show(wants or self._progress.training(board))
        elif running:
            self._progress.show(", ".join(f"{self._kinds[kind].doing}: {left} left" for kind, left in running.items()))
        self._report(loop, board)

    def _report(self, loop: Loop, board: Snapshot) -> None:
        """Report how many steps of each kind are in which state."""
        count: Counter[tuple[str, str]] = Counter()
        for step, state in loop.states():
            if state == "running" and step.kind in TRAINS:
                state = self._in_its_group(step.payload.name, board)
            count[step.kind, state] += 1
        report_steps(self._context.study.name, count)

    def _in_its_group(self, trial: str, board: Snapshot) -> str:
        """The state of a trial whose group runs: a group trains one trial after another."""
        at = board.trials.get(trial)
        if at is None:
            return "waiting"
        return "done" if at.step >= self._lengths[trial] else "running"

    def finish(self, plan: Plan, steps: Sequence[Step], step: str, revision: int, started: float) -> Manifest:
        """Compare, decide and report from the rows of these steps; `step` names the report of all of them.

        Where some failed, the report names them, and has a name of its own: the study is not finished by it.
        """
        self._progress.show("comparing and reporting")
        study, machine, data = plan.study.name, self._context.machine, self._context.data
        spans = ray.get(self._board.read.remote()).busy.values()
        facts = {
            "revision": revision,
            "device": machine.device_name,
            "precision": machine.precision,
            "wall_seconds": time.time() - started,
            "went_on": self._went_on,  # from an earlier run, whose time is not counted
            "compute_seconds": covered((start, end) for _, start, end in spans),
            "seconds": {
                kind: covered((start, end) for k, start, end in spans if k == kind)
                for kind in ("training", "evaluation", "cost")
            },
            "tokens_per_second": {name: vars(speeds) for name, speeds in plan.speeds.items()},
            "data": self._store.find("data", study, data).facts,  # type: ignore[union-attr]
        }
        names: dict[str, list[str]] = {}
        for each in steps:
            names.setdefault(each.table, []).append(each.name)
        if self.failed:
            facts["missing"] = [{"step": failed.label, "reason": why} for failed, why in self.failed]
            there = {table: sorted(self._store.steps(table, study).intersection(own)) for table, own in names.items()}
            step = digest({"report": step, "there": there})
        return conclude(plan, self._store, step, names | {"steps": names["trials"]}, facts)
