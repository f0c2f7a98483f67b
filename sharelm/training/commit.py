"""What a finished trial commits: its weights, the figures of its steps, and its row."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist

from sharelm.artefact import WEIGHTS, commit_model
from sharelm.model import save_weights
from sharelm.steps import model_step, trained
from sharelm.store import Store
from sharelm.tables import TABLES
from sharelm.training import checkpoint, soft
from sharelm.training.loop import Loop
from sharelm.training.run import Run
from sharelm.training.stability import stability


def committed(store: Store, table: str, study: str, name: str) -> bool:
    """Whether this step is committed. Rank 0 asks the store and tells every rank, so that no two ranks disagree."""
    answer = [dist.get_rank() == 0 and store.find(table, study, name) is not None]
    dist.broadcast_object_list(answer, src=0)
    return answer[0]


def commit_trial(loop: Loop, tokenizer: str, error: str | None) -> None:
    """Commit a trial that ended, on rank 0; `error` says how it diverged, if it did.

    The trial's row comes last and makes the trial done. A trial that diverged commits no model and keeps its
    checkpoint. `tokenizer` is JSON; it becomes part of the model.
    """
    store, study, run = loop.store, loop.run.study.name, loop.run
    names = run.trial.labels
    size = _commit_model(loop, tokenizer) if error is None else None
    store.commit_rows("steps", study, loop.name, _steps(loop, names))
    if run.trial.arm.sharing.soft.on and error is None:
        distances = [{**names, **row} for row in soft.distances(run.model)]
        table = pa.Table.from_pylist(distances, schema=TABLES["distances"])
        store.commit_rows("distances", study, loop.name, table)
    row = pa.Table.from_pylist([{**names, **_row(loop, size, error)}], schema=TABLES["trials"])
    store.commit_rows("trials", study, loop.name, row, facts={"error": error})
    if error is None:
        checkpoint.discard(store, study, loop.name)


def _commit_model(loop: Loop, tokenizer: str) -> int:
    """Commit the model at the precision it is served in; returns the bytes of its weights."""
    dtype = torch.bfloat16 if loop.run.machine.precision == "bf16" else torch.float32
    with tempfile.TemporaryDirectory(prefix="sharelm-weights-") as folder:
        path = Path(folder, WEIGHTS)
        save_weights(loop.run.model, path, dtype)
        origin = trained(loop.name)
        labels = loop.run.trial.labels
        commit_model(loop.store, loop.run.study.name, model_step(origin), path, tokenizer, origin, labels)
        return path.stat().st_size


def _steps(loop: Loop, names: dict[str, Any]) -> pa.Table:
    """One row of the table `steps` for every optimizer step."""
    count, tokens_per_step = len(loop.losses), loop.run.training.tokens_per_step
    columns = {
        **{key: [value] * count for key, value in names.items()},
        "training_step": list(range(1, count + 1)),
        "tokens": [tokens_per_step * i for i in range(1, count + 1)],
        "loss_nats": loop.losses,
        "learning_rate": [loop.run.rate(i) for i in range(count)],
        "gradient_norm": loop.norms,
        "tokens_per_second": loop.speeds,
    }
    return pa.table(columns, schema=TABLES["steps"])


def _row(loop: Loop, weights_bytes: int | None, error: str | None) -> dict[str, Any]:
    """The trial's row of the table `trials`, without its names."""
    run, world = loop.run, dist.get_world_size()
    arm, training = run.trial.arm, run.training
    tokens = training.tokens_per_step * len(loop.losses)
    return {
        "role": arm.role,
        "status": "done" if error is None else "diverged",
        "error": error,
        "attention_schedule": list(arm.sharing.schedule("attention")),
        "feed_forward_schedule": list(arm.sharing.schedule("feed_forward")),
        "stored_parameters": arm.footprint.stored_parameters,
        "materialised_parameters": arm.footprint.materialised_parameters,
        "embedding_parameters": arm.footprint.embedding_parameters,
        "training_flops_per_token": arm.footprint.training_flops_per_token,
        "tokens": tokens,
        "epochs": tokens / (len(run.rows) * arm.shape.context),
        "steps": len(loop.losses),
        "workers": world,
        "device": run.machine.device_name,
        "precision": run.machine.precision,
        **asdict(stability(loop.losses, loop.norms, training.spike_factor)),
        "training_seconds": loop.seconds,
        "tokens_per_second": tokens / loop.seconds,
        "training_cost": loop.seconds / 3600 * world * run.study.cost.price_per_hour / training.together,
        "currency": run.study.cost.currency,
        "resumes": loop.resumes,
        "learning_rate_halvings": len(run.halved_at),
        "weights_bytes": weights_bytes,
        "resolved_json": json.dumps(_resolved(run), sort_keys=True),
    }


def _resolved(run: Run) -> dict[str, Any]:
    """Every setting as resolved; the report compares those of two arms key by key."""
    return {
        "shape": asdict(run.trial.arm.shape),
        "sharing": asdict(run.trial.arm.sharing),
        "training": {**run.training.model_dump(mode="json"), "precision": run.machine.precision},
        "deepspeed": json.loads(json.dumps(run.config)),
        "optimizer": "torch.optim.AdamW" if run.training.optimizer == "adamw" else "torch.optim.Muon with AdamW",
        "device": run.machine.device_name,
        "torch": torch.__version__,
    }
