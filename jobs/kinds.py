"""The kinds of steps: how each is carried out on the cluster. A new kind of step is an entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from jobs.context import Context
from jobs.loop import Kind, Launched
from jobs.measure import CostMeter, score_model
from jobs.nodes import here
from jobs.steps import Step
from jobs.train import split, train_group

TRAINS = {"proxy": "proxies", "trial": "trials"}  # kinds whose steps tell the board how far they are; their plurals


def kinds(context: Context, items: Mapping[str, list[Any]]) -> dict[str, Kind]:
    """Every kind of step by its name; `items` are those of each task, by the task's name.

    Items are computed by the driver, since a task's file need not lie on every node.
    """
    sent = ray.put(context)  # the driver, who owns it, outlives restarts of what reads it
    return {
        "speed": Kind("measuring training speed", _in_groups(context, lambda steps: [list(steps)])),
        "proxy": Kind("training", _in_groups(context, lambda steps: _balanced(context, steps))),
        "trial": Kind("training", _in_groups(context, lambda steps: _balanced(context, steps))),
        "score": Kind("evaluating", _scores(sent, items)),
        "cost": Kind("measuring cost", _costs(sent), alone=True),
    }


def _balanced(context: Context, steps: Sequence[Step]) -> list[list[Step]]:
    flops = [step.payload.arm.training_flops for step in steps]
    return split(steps, flops, context.have.parallel_groups, context.study.training.trials_per_group)


def _in_groups(
    context: Context, groups: Callable[[Sequence[Step]], list[list[Step]]]
) -> Callable[[Sequence[Step]], Launched]:
    """Steps of training, each of these groups in one worker group."""

    def launch(steps: Sequence[Step]) -> Launched:
        start = train_group.options(scheduling_strategy=here()).remote
        return {start(context, group): group for group in groups(steps)}

    return launch


def _options(step: Step) -> dict[str, Any]:
    """What Ray reserves for a task or an actor that carries out this step."""
    return {"num_cpus": step.resources["CPU"], "num_gpus": step.resources.get("GPU", 0)}


def _scores(context: Any, items: Mapping[str, list[Any]]) -> Callable[[Sequence[Step]], Launched]:
    """Every score is a task of its own. What many of them read is sent once."""
    sent: dict[str, Any] = {}

    def launch(steps: Sequence[Step]) -> Launched:
        for task in {step.payload.task.name for step in steps} - sent.keys():
            sent[task] = ray.put(items[task])
        return {
            score_model.options(**_options(step)).remote(context, step, sent[step.payload.task.name]): [step]
            for step in steps
        }

    return launch


def _costs(context: Any) -> Callable[[Sequence[Step]], Launched]:
    """All costs are measured by one process, one after another."""

    def launch(steps: Sequence[Step]) -> Launched:
        meter = CostMeter.options(**_options(steps[0])).remote()  # type: ignore[attr-defined]
        return {meter.measure.remote(context, step): [step] for step in steps}

    return launch
