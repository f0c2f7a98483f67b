"""Evaluation and cost on the cluster: one task for each (trial, task, shard), one process for all costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from jobs.board import busy
from sharelm.machine import Machine
from sharelm.store import Store, open_store
from sharelm.study import Study, Trial
from sharelm.study.cost import Workload
from sharelm.study.evaluation import Task
from sharelm.tables import TABLES


@dataclass(frozen=True)
class TaskContext:
    """What every scoring and cost task is told: where it reads and writes, and what it runs on."""

    study: Study
    store: str
    data: str  # the step of the study's data
    machine: Machine
    threads: int
    board: Any


def _weights(store: Store, study: str, step: str) -> Path:
    from sharelm.training.trial import MODELS, WEIGHTS

    manifest = store.find(MODELS, study, step)
    assert manifest is not None  # a trial is committed after its weights
    return store.fetch(manifest, WEIGHTS)


@contextmanager
def _device(context: TaskContext) -> Iterator[None]:
    """The device as the task is to use it; its memory is given back to the processes that come after."""
    import torch

    if context.machine.device == "cpu":
        torch.set_num_threads(context.threads)
    yield
    if context.machine.device == "cuda":
        torch.cuda.empty_cache()


# max_calls = 0: a GPU task would be a process of its own, which spends seconds on imports and on CUDA
@ray.remote(max_retries=2, max_calls=0)
def score_trial(
    context: TaskContext, trial: Trial, trial_step: str, task: Task, items: list[Any], shard_index: int, step: str
) -> None:
    """Score one trial on one shard of a task's items and commit the rows."""
    from sharelm.data import open_corpus
    from sharelm.evaluation import score, shard
    from sharelm.evaluation.decoder import DecoderScorer
    from sharelm.model import load_model

    store, study = open_store(context.store), context.study.name
    if store.find("scores", study, step) is not None:
        return
    weights = _weights(store, study, trial_step)
    data = store.find("data", study, context.data)
    assert data is not None  # a trial is trained on them
    tokenizer = open_corpus(store, data).tokenizer
    with _device(context), busy(context.board, "evaluation"):
        model = load_model(weights, context.machine.device, context.machine.precision)
        scorer = DecoderScorer(model, tokenizer, context.study.evaluation.tokens_per_batch)
        rows = score(scorer, shard(items, shard_index, task.shards))
        del model, scorer
    names = {"trial": trial.name, "arm": trial.arm.name, "seed": trial.seed, "task": task.name, "kind": task.kind}
    for key, value in names.items():
        field = TABLES["scores"].field(key)
        rows = rows.append_column(field, pa.array([value] * len(rows), field.type))
    store.commit_rows("scores", study, step, rows.select(TABLES["scores"].names))


@ray.remote(max_restarts=2, max_task_retries=2)
class CostMeter:
    """Measures costs one after another in one process on one GPU: models that are compared meet the same one."""

    def measure(self, context: TaskContext, trial: Trial, trial_step: str, workload: Workload, step: str) -> None:
        """Measure one trial under one workload and commit the row."""
        from sharelm.cost import measure

        store, study = open_store(context.store), context.study.name
        if store.find("costs", study, step) is not None:
            return
        weights = _weights(store, study, trial_step)
        with _device(context), busy(context.board, "cost"):
            row = measure(weights, workload, context.machine, context.study.cost)
        row |= {"trial": trial.name, "arm": trial.arm.name, "seed": trial.seed}
        store.commit_rows("costs", study, step, pa.Table.from_pylist([row], schema=TABLES["costs"]))
