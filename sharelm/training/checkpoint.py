"""Resumable checkpoints in the store: DeepSpeed's own files, one attempt, one manifest, read without pickle.

A checkpoint is step `<trial digest>-<training step>` of the table `checkpoints`. Every rank puts the files that it
wrote; rank 0 commits them all at once, so a reader sees a whole checkpoint or none. When a newer one is committed
the older is removed.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sharelm.store import Manifest, Store
from sharelm.training.reshard import reshard

TABLE = "checkpoints"
PROGRESS = "progress.json"


def safe_checkpoint_engine() -> Any:
    """DeepSpeed's torch checkpoint engine, except that loading runs no code: `weights_only=True`.

    DeepSpeed's files hold a few of its own plain classes, which are allowed by name.
    """
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    class SafeCheckpointEngine(TorchCheckpointEngine):  # type: ignore[misc]
        def load(self, path: str, map_location: Any = None) -> Any:
            allowed = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
            with torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location=map_location, weights_only=True)

    return SafeCheckpointEngine()


@dataclass(frozen=True)
class Progress:
    """What a trial had done when it was checkpointed; the lists have one entry a step."""

    step: int
    losses: list[float]
    gradient_norms: list[float]
    tokens_per_second: list[float]
    training_seconds: float
    resumes: int


def _all_records(mine: list[Any]) -> list[Any]:
    gathered: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, mine)
    return [record for records in gathered for record in records]


def save(engine: Any, store: Store, study: str, trial: str, progress: Progress) -> None:
    """Commit a checkpoint of this trial; every rank calls it. Older ones are removed after the commit."""
    rank, step = dist.get_rank(), f"{trial}-{progress.step:08d}"
    name = [store.attempt(TABLE, study, step).id if rank == 0 else ""]
    dist.broadcast_object_list(name, src=0)
    attempt = store.attempt(TABLE, study, step, name[0])
    with tempfile.TemporaryDirectory(prefix="sharelm-checkpoint-") as folder:
        engine.save_checkpoint(folder, tag="state", save_latest=False)
        files = sorted(path for path in Path(folder, "state").iterdir() if path.suffix == ".pt")
        records = [attempt.put(path.name, path) for path in files]
    if rank == 0:
        records.append(attempt.put(PROGRESS, json.dumps(vars(progress)).encode()))
    records = _all_records(records)
    if rank == 0:
        older = _of(store, study, trial)
        attempt.commit(records, facts={"world": dist.get_world_size()})
        for manifest in older:
            if manifest.step < step:
                store.remove(manifest)
    dist.barrier()


def _of(store: Store, study: str, trial: str) -> list[Manifest]:
    return [m for m in store.manifests(TABLE, study) if m.step.startswith(f"{trial}-")]


def restore(engine: Any, store: Store, study: str, trial: str) -> Progress | None:
    """Load the newest checkpoint of this trial, or return None where there is none; every rank calls it.

    What the same number of workers wrote is restored to the bit; what another number wrote, exactly too, but its sums
    go on in another order.
    """
    found = _of(store, study, trial) if dist.get_rank() == 0 else []
    choice = [max((m.step for m in found), default="")]
    dist.broadcast_object_list(choice, src=0)
    if not choice[0]:
        return None
    manifest = store.find(TABLE, study, choice[0])
    assert manifest is not None
    with tempfile.TemporaryDirectory(prefix="sharelm-checkpoint-") as folder:
        target = Path(folder, "state")
        target.mkdir()
        for record in manifest.files:
            if record.name != PROGRESS:
                (target / record.name).symlink_to(store.fetch(manifest, record.name).resolve())
        writers = manifest.facts["world"]
        if writers != dist.get_world_size() and engine.zero_optimization():
            reshard(engine, target, writers, engine.checkpoint_engine.load)
        engine.load_checkpoint(folder, tag="state")
    return Progress(**json.loads(store.read_bytes(manifest, PROGRESS)))


def discard(store: Store, study: str, trial: str) -> None:
    """Remove a finished trial's checkpoints: its weights are committed and nothing will resume it."""
    for manifest in _of(store, study, trial):
        store.remove(manifest)
