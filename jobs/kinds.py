"""The kinds of steps: how each is carried out on the cluster. A new kind of step is an entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from jobs.context import Context
from jobs.loop import AHEAD, Groups, Kind
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
    groups, scores = context.have.parallel_groups + 1, AHEAD * context.have.parallel_scores  # a group is processes
    return {
        "speed": Kind("measuring training speed", _in_group(context), groups, lambda steps: [steps]),
        "proxy": Kind("training", _in_group(context), groups, lambda steps: _balanced(context, steps)),
        "trial": Kind("training", _in_group(context), groups, lambda steps: _balanced(context, steps)),
        "score": Kind("evaluating", _scores(sent, items), scores),
        "cost": Kind("measuring cost", _costs(sent), AHEAD, alone=True),
    }


def _balanced(context: Context, steps: Sequence[Step]) -> Groups:
    flops = [step.payload.arm.training_flops for step in steps]
    return split(steps, flops, context.have.parallel_groups, context.study.training.trials_per_group)


def _in_group(context: Context) -> Callable[[Sequence[Step]], Any]:
    """These steps of training, in one worker group."""

    def start(steps: Sequence[Step]) -> Any:
        return train_group.options(scheduling_strategy=here()).remote(context, steps)

    return start


def _options(step: Step) -> dict[str, Any]:
    """What Ray reserves for a task or an actor that carries out this step."""
    return {"num_cpus": step.resources["CPU"], "num_gpus": step.resources.get("GPU", 0)}


def _scores(context: Any, items: Mapping[str, list[Any]]) -> Callable[[Sequence[Step]], Any]:
    """Every score is a task of its own. What many of them read is sent once."""
    sent: dict[str, Any] = {}

    def start(steps: Sequence[Step]) -> Any:
        (step,) = steps
        task = step.payload.task.name
        if task not in sent:
            sent[task] = ray.put(items[task])
        return score_model.options(**_options(step)).remote(context, step, sent[task])

    return start


def _costs(context: Any) -> Callable[[Sequence[Step]], Any]:
    """All costs are measured by one process, one after another; it ends with the driver of the study."""
    meters: list[Any] = []

    def start(steps: Sequence[Step]) -> Any:
        (step,) = steps
        if not meters:
            meters.append(CostMeter.options(**_options(step)).remote())  # type: ignore[attr-defined]
        return meters[0].measure.remote(context, step)

    return start
