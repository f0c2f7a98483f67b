"""Training on the cluster: groups of steps, each group one Ray Train worker group.

A group carries out its steps one after another, so that starting workers is paid once. When a worker dies Ray Train
starts the group again: steps that are committed are skipped and the trial that was hit goes on from its checkpoint.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import ray

from jobs.context import Context
from jobs.steps import Step
from sharelm.store import Store, open_store

if TYPE_CHECKING:
    from sharelm.data import Corpus

Item = TypeVar("Item")


def split(items: Sequence[Item], weights: Sequence[int], parallel: int, per_group: int) -> list[list[Item]]:
    """Items in groups that take about as long: as many as run at once, a multiple where they would be too long.

    The heaviest items are given away first, each to the group that has least to do (LPT scheduling); within a group
    they keep their order.
    """
    rounds = -(-len(items) // (parallel * per_group))
    count = min(len(items), parallel * rounds)
    groups: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for number in sorted(range(len(items)), key=lambda n: -weights[n]):
        least = min((group for group in range(count) if len(groups[group]) < per_group), key=lambda g: loads[g])
        groups[least].append(number)
        loads[least] += weights[number]
    return [[items[number] for number in sorted(group)] for group in groups]


def _measure_speeds(context: Context, step: Step, corpus: Corpus, store: Store) -> None:
    from jobs.board import busy
    from sharelm.training.speed import measure_speeds

    with busy(context.board, "training", context.have.devices(step.resources)):  # in every worker
        measure_speeds(context.study, step.payload, corpus, step.name, context.machine, store)


def _train_proxy(context: Context, step: Step, corpus: Corpus, store: Store) -> None:
    from sharelm.training.tune import train_proxy

    _train(train_proxy, context, step, corpus, store)


def _train_trial(context: Context, step: Step, corpus: Corpus, store: Store) -> None:
    from sharelm.training.trial import train_trial

    _train(train_trial, context, step, corpus, store)


def _train(train: Callable[..., None], context: Context, step: Step, corpus: Corpus, store: Store) -> None:
    from jobs.board import TrainingReporter

    study, trial = context.study, step.payload
    devices = study.training.workers * context.have.devices(step.resources)
    steps = trial.arm.training(study.training).steps
    with TrainingReporter(context.board, study.name, steps, devices) as on_step:
        train(study, trial, corpus, step.name, context.machine, store, on_step)


_TRAINING: dict[str, Callable[[Context, Step, Corpus, Store], None]] = {
    "speed": _measure_speeds,
    "proxy": _train_proxy,
    "trial": _train_trial,
}


def _train_worker(config: dict[str, Any]) -> None:
    """Runs in every worker of the group: carries out its steps together with the others."""
    import torch
    from torch.distributed import distributed_c10d

    from jobs.metrics import report_store
    from sharelm.data import open_corpus

    context: Context = config["context"]
    # DeepSpeed makes process groups of its own and gives them no time-out
    patience = timedelta(seconds=context.study.training.stall_timeout_s)
    vars(distributed_c10d).update(default_pg_timeout=patience, default_pg_nccl_timeout=patience)
    torch.set_num_threads(context.have.cpus_per_worker)
    if context.machine.device != "cpu":
        import ray.train.torch

        torch.cuda.set_device(ray.train.torch.get_device())
    report_store()
    store = open_store(context.store)
    manifest = store.find("data", context.study.name, context.data)
    assert manifest is not None  # the driver prepares the data before it trains
    corpus = open_corpus(store, manifest)
    for step in config["steps"]:
        _TRAINING[step.kind](context, step, corpus, store)


@ray.remote(num_cpus=0)
def train_group(context: Context, steps: Sequence[Step]) -> None:
    """Carry out these steps of training in one worker group; returns when all of them are committed."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    have, training = context.have, context.study.training
    # of a process that is stopped
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(training.stall_timeout_s)
    # a process more for each group, that workers might ask whether their node is about to go: ours never do
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    with tempfile.TemporaryDirectory(prefix="sharelm-train-") as folder:
        TorchTrainer(
            _train_worker,
            train_loop_config={"context": context, "steps": steps},
            torch_config=TorchConfig(backend="nccl" if have.use_gpu else "gloo", timeout_s=training.stall_timeout_s),
            scaling_config=ScalingConfig(
                num_workers=training.workers,
                use_gpu=have.use_gpu,
                resources_per_worker=dict(steps[0].resources),
                placement_strategy=training.placement.upper(),
            ),
            # Checkpoints are the trial's own, in the store, so that workers on other nodes need not see this folder;
            # a name used twice would silently resume the old run.
            run_config=RunConfig(
                name=f"{context.study.name}-{uuid4().hex[:8]}",
                storage_path=folder,
                failure_config=FailureConfig(max_failures=training.max_failures),
            ),
        ).fit()
