"""Evaluation and cost on the cluster: one task for each (model, task, shard), one process for all costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray

from jobs.board import busy
from jobs.context import Context
from jobs.metrics import report_store
from jobs.steps import Costing, Scoring, Step
from sharelm.artefact import open_model
from sharelm.store import open_store
from sharelm.tables import TABLES


@contextmanager
def _device(context: Context, step: Step) -> Iterator[None]:
    """The device as the step is to use it; its memory is given back to the processes that come after."""
    import torch

    if context.machine.device == "cpu":
        torch.set_num_threads(int(step.resources["CPU"]))
    yield
    if context.machine.device == "cuda":
        torch.cuda.empty_cache()


# max_calls = 0: a GPU task would be a process of its own, which spends seconds on imports and on CUDA
@ray.remote(max_retries=2, max_calls=0)
def score_model(context: Context, step: Step, items: list[Any]) -> None:
    """Score a model on one shard of a task's items and commit the rows."""
    from sharelm.data.tokenizer import tokenizer_from
    from sharelm.evaluation import score, shard
    from sharelm.evaluation.decoder import DecoderScorer
    from sharelm.model import load_model

    report_store()
    what: Scoring = step.payload
    store, study = open_store(context.store), context.study.name
    if store.find(step.table, study, step.name) is not None:
        return
    artefact = open_model(store, study, what.model)
    with _device(context, step), busy(context.board, "evaluation", context.have.devices(step.resources)):
        model = load_model(artefact.weights, context.machine.device, context.machine.precision)
        tokenizer = tokenizer_from(artefact.tokenizer)
        scorer = DecoderScorer(model, tokenizer, context.study.evaluation.tokens_per_batch)
        rows = score(scorer, shard(items, what.shard, what.task.shards))
        del model, scorer
    for key, value in {**what.labels, "task": what.task.name, "kind": what.task.kind}.items():
        field = TABLES[step.table].field(key)
        rows = rows.append_column(field, pa.array([value] * len(rows), field.type))
    store.commit_rows(step.table, study, step.name, rows.select(TABLES[step.table].names))


@ray.remote(max_restarts=2, max_task_retries=2)
class CostMeter:
    """Measures costs one after another in one process on one GPU: models that are compared meet the same one."""

    def measure(self, context: Context, step: Step) -> None:
        """Measure a model under one workload and commit the row."""
        from sharelm.cost.measurement import measure

        report_store()
        what: Costing = step.payload
        store, study = open_store(context.store), context.study.name
        if store.find(step.table, study, step.name) is not None:
            return
        artefact = open_model(store, study, what.model)
        with _device(context, step), busy(context.board, "cost", context.have.devices(step.resources)):
            row = measure(artefact.weights, what.workload, context.machine, context.study.cost)
        rows = pa.Table.from_pylist([{**row, **what.labels}], schema=TABLES[step.table])
        store.commit_rows(step.table, study, step.name, rows)
