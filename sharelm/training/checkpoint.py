"""Resumable checkpoints in the store: DeepSpeed's own files, one attempt, one manifest, read without pickle.

A checkpoint is step `<trial digest>-<training step>` of the table `checkpoints`. Training waits only while its state is
copied to host memory. A thread of every rank then puts the files of that rank, and rank 0's thread commits all of them
at once, so that a reader sees a whole checkpoint or none. When a checkpoint is committed the older one is removed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sharelm.errors import StoreError
from sharelm.store import Attempt, FileRecord, Manifest, Store
from sharelm.training.reshard import reshard

TABLE = "checkpoints"
PROGRESS = "progress.json"


def memory_checkpoint_engine() -> Any:
    """A checkpoint engine for DeepSpeed that saves into host memory and loads without running code from the file.

    `taken` holds what was saved. Loading allows by name the few plain classes that DeepSpeed's files hold.
    """
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    class MemoryCheckpointEngine(TorchCheckpointEngine):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.taken: dict[str, Any] = {}  # by name of the file

        def save(self, state_dict: Any, path: str) -> None:
            self.taken[Path(path).name] = _on_host(state_dict)

        def load(self, path: str, map_location: Any = None) -> Any:
            allowed = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
            with torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location=map_location, weights_only=True)

    return MemoryCheckpointEngine()


def _on_host(value: Any) -> Any:
    """A copy of the value whose tensors are in host memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_host(item) for key, item in value.items()}
    if type(value) in (list, tuple):  # torch.Size stays
        return type(value)(_on_host(item) for item in value)
    return value


@dataclass(frozen=True)
class Progress:
    """What a trial had done when it was checkpointed. The lists of figures have one entry a step."""

    step: int
    losses: list[float]
    gradient_norms: list[float]
    tokens_per_second: list[float]
    training_seconds: float
    resumes: int
    halved_at: list[int]  # steps (from 0) from which on the learning rate was halved


class Checkpoints:
    """Writes the checkpoints of one trial while it trains, one at a time. Every rank has one of these."""

    def __init__(self, engine: Any, store: Store, study: str, trial: str) -> None:
        self._engine, self._store, self._study, self._trial = engine, store, study, trial
        self._group: Any = None  # of the threads: training's own group is busy with training
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def save(self, progress: Progress) -> None:
        """Wait for the last checkpoint, copy the state to host memory and start to write it; every rank must call."""
        self.wait()
        if self._group is None and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")  # it waits as long as training does: a peer may have stalled
        step = _name(self._trial, progress.step)
        name = [self._store.attempt(TABLE, self._study, step).id if dist.get_rank() == 0 else ""]
        dist.broadcast_object_list(name, src=0)
        with tempfile.TemporaryDirectory(prefix="sharelm-checkpoint-") as folder:  # DeepSpeed puts scripts there
            self._engine.save_checkpoint(folder, tag="state", save_latest=False)
        taken, self._engine.checkpoint_engine.taken = self._engine.checkpoint_engine.taken, {}
        what = (self._store.attempt(TABLE, self._study, step, name[0]), taken, json.dumps(vars(progress)).encode())
        self._thread = Thread(target=self._write, args=what, daemon=True, name=step)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of the thread that writes, if there was one."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Wait until the last checkpoint is committed; raises the error of writing it, if there was one."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def close(self) -> None:
        """Destroy the threads' process group. No checkpoint may be being written."""
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def _write(self, attempt: Attempt, taken: dict[str, Any], progress: bytes) -> None:
        """Put and commit a checkpoint; runs in the thread. A rank that fails tells the others, so that none waits."""
        try:
            records = self._on_every_rank(lambda: _put(attempt, taken, progress))
            taken.clear()
            self._on_every_rank(lambda: self._commit(attempt, [record for part in records for record in part]))
        except Exception as error:  # raised at training's next step
            self._error = error

    def _on_every_rank(self, work: Callable[[], Any]) -> list[Any]:
        """Do this rank's work and return every rank's result, once all are done. Raises where one of them failed."""
        result, failure, said = None, None, None
        try:
            result = work()
        except Exception as error:
            failure, said = error, f"{type(error).__name__}: {error}"
        results: list[Any] = [(result, said)]
        if self._group is not None:
            results *= dist.get_world_size()
            dist.all_gather_object(results, (result, said), group=self._group)
        if failure is not None:
            raise failure
        for rank, (_, told) in enumerate(results):
            if told is not None:
                raise StoreError(f"worker {rank} could not write its part of a checkpoint: {told}")
        return [result for result, _ in results]

    def _commit(self, attempt: Attempt, records: list[FileRecord]) -> None:
        """Commit every rank's files, on rank 0, and remove the older checkpoints."""
        if dist.get_rank() != 0:
            return
        older = [m for m in _of(self._store, self._study, self._trial) if m.step < attempt.step]
        attempt.commit(records, facts={"world": dist.get_world_size()})
        for manifest in older:
            self._store.remove(manifest)


def _put(attempt: Attempt, taken: dict[str, Any], progress: bytes) -> list[FileRecord]:
    """Put this rank's files and, on rank 0, the progress; returns the records of what was put."""
    records = []
    with tempfile.TemporaryDirectory(prefix="sharelm-checkpoint-") as folder:
        for name, state in sorted(taken.items()):
            path = Path(folder, name)
            torch.save(state, path)
            records.append(attempt.put(name, path))
            path.unlink()
    if dist.get_rank() == 0:
        records.append(attempt.put(PROGRESS, progress))
    return records


def _name(trial: str, step: int) -> str:
    """Names the checkpoint after this training step."""
    return f"{trial}-{step:08d}"


def _of(store: Store, study: str, trial: str) -> list[Manifest]:
    """The trial's checkpoints."""
    return [m for m in store.manifests(TABLE, study) if m.step.startswith(f"{trial}-")]


def restore(engine: Any, store: Store, study: str, trial: str) -> Progress | None:
    """Load the newest checkpoint of this trial, or return None where there is none. Every rank must call it.

    State is restored to the bit, also where another number of workers wrote it. Such a trial then goes on with sums in
    another order.
    """
    world = dist.get_world_size()
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
        if writers != world and engine.zero_optimization():
            reshard(engine, target, writers, engine.checkpoint_engine.load)
        engine.load_checkpoint(folder, tag="state")
    return Progress(**json.loads(store.read_bytes(manifest, PROGRESS)))


def discard(store: Store, study: str, trial: str, step: int | None = None) -> None:
    """Remove a trial's checkpoints: all of them, or the one after this training step."""
    for manifest in _of(store, study, trial):
        if step is None or manifest.step == _name(trial, step):
            store.remove(manifest)
