"""Training on the cluster: groups of trials, each group one Ray Train worker group.

A group trains its trials one after another, so that starting workers is paid once. When a worker dies Ray Train
starts the group again: trials that are committed are skipped and the one that was hit goes on from its checkpoint.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import ray

from jobs.nodes import Resources
from sharelm.machine import Machine
from sharelm.store import open_store
from sharelm.study import Arm, Study, Trial


@dataclass(frozen=True)
class Group:
    """What one worker group trains or times, and all that its workers need to know."""

    study: Study
    data: str
    machine: Machine
    store: str
    have: Resources
    board: Any
    timed: tuple[tuple[Arm, Arm], ...] = ()  # a variant and its time twin's model, whose speeds are measured
    proxies: tuple[Trial, ...] = ()  # whose losses choose learning rates
    trials: tuple[Trial, ...] = ()


def split(trials: Sequence[Trial], parallel: int, per_group: int) -> list[tuple[Trial, ...]]:
    """The trials in groups that take about as long: as many as run at once, a multiple where they would be too long.

    The longest trials are given away first, each to the group that has least to do (LPT scheduling); within a group
    they run in the order in which they are asked for.
    """
    rounds = -(-len(trials) // (parallel * per_group))
    count = min(len(trials), parallel * rounds)
    groups: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    flops = [trial.arm.training_flops for trial in trials]
    for number in sorted(range(len(trials)), key=lambda n: -flops[n]):
        least = min((group for group in range(count) if len(groups[group]) < per_group), key=lambda g: loads[g])
        groups[least].append(number)
        loads[least] += flops[number]
    return [tuple(trials[number] for number in sorted(group)) for group in groups]


def _train_worker(config: dict[str, Group]) -> None:
    """Runs in every worker of the group."""
    import torch
    from torch.distributed import distributed_c10d

    from jobs.board import TrainingReporter, busy
    from sharelm.data import open_corpus
    from sharelm.training.speed import measure_speeds
    from sharelm.training.trial import train_trial
    from sharelm.training.tune import train_proxy

    group = config["group"]
    # DeepSpeed makes process groups of its own and gives them no time-out
    patience = timedelta(seconds=group.study.training.stall_timeout_s)
    vars(distributed_c10d).update(default_pg_timeout=patience, default_pg_nccl_timeout=patience)
    torch.set_num_threads(group.have.cpus_per_worker)
    if group.machine.device != "cpu":
        import ray.train.torch

        torch.cuda.set_device(ray.train.torch.get_device())
    store = open_store(group.store)
    manifest = store.find("data", group.study.name, group.data)
    assert manifest is not None  # the driver prepares the data before it trains
    corpus = open_corpus(store, manifest)
    for pair in group.timed:
        with busy(group.board, "training"):
            measure_speeds(group.study, pair, corpus, group.machine, store)
    for train, trials in ((train_proxy, group.proxies), (train_trial, group.trials)):
        for trial in trials:
            on_step = TrainingReporter(group.board, trial.arm.training(group.study.training).steps)
            train(group.study, trial, corpus, group.data, group.machine, store, on_step)


@ray.remote(num_cpus=0)
def train_group(group: Group) -> None:
    """Time pairs of arms, train proxies or trials; returns when all of them are committed."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    have, training = group.have, group.study.training
    # of a process that is stopped
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(training.stall_timeout_s)
    # a process more for each group, that workers might ask whether their node is about to go: ours never do
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    with tempfile.TemporaryDirectory(prefix="sharelm-train-") as folder:
        TorchTrainer(
            _train_worker,
            train_loop_config={"group": group},
            torch_config=TorchConfig(backend="nccl" if have.use_gpu else "gloo", timeout_s=training.stall_timeout_s),
            scaling_config=ScalingConfig(
                num_workers=training.workers,
                use_gpu=have.use_gpu,
                resources_per_worker=have.worker,
                placement_strategy=training.placement.upper(),
            ),
            # Checkpoints are the trial's own, in the store, so that workers on other nodes need not see this folder;
            # a name used twice would silently resume the old run.
            run_config=RunConfig(
                name=f"{group.study.name}-{uuid4().hex[:8]}",
                storage_path=folder,
                failure_config=FailureConfig(max_failures=training.max_failures),
            ),
        ).fit()
