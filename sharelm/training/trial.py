"""One trial, from its spec to its committed weights, steps and row. Every worker of the group runs this."""

from __future__ import annotations

import gc
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from sharelm.errors import DivergedError
from sharelm.machine import Machine
from sharelm.model import PRECISIONS, Decoder, save_weights
from sharelm.steps import trial_step
from sharelm.store import Store
from sharelm.store.schemas import TABLES
from sharelm.study import Study, Trial
from sharelm.study.memory import explain_lack_of_memory
from sharelm.training import checkpoint, soft
from sharelm.training.engine import (
    build_engine,
    deepspeed_config,
    gathered,
    load_deepspeed,
    repeat_to_the_bit,
    set_learning_rate,
    take_step,
)
from sharelm.training.graph import GraphedPass, backward_is_done
from sharelm.training.order import step_rows, worker_rows
from sharelm.training.rate import learning_rate
from sharelm.training.regularise import scale_gradients, seed_masks
from sharelm.training.stability import stability

MODELS = "models"
WEIGHTS = "weights.safetensors"
MOST_HALVINGS = 3
if TYPE_CHECKING:
    from sharelm.data import Corpus, TokenRows

OnStep = Callable[[str, int, float, float, float], None]


def train_trial(
    study: Study, trial: Trial, corpus: Corpus, data: str, machine: Machine, store: Store, on_step: OnStep
) -> None:
    """Train one trial over the process group that is already there, and commit it.

    A trial that is committed is left alone; one with a checkpoint goes on from it. `on_step` is called on rank 0
    after every optimizer step with the trial's name, the step, its loss in nats, tokens per second and seconds.
    """
    name = trial_step(study, trial, data, machine)
    if committed(store, "trials", study.name, name):
        return
    training, done, error = trial.arm.training(study.training), False, None
    with explain_lack_of_memory(trial.name, trial.arm, training, machine.precision):
        run = Run(study, trial, corpus.training(trial.arm.shape.context), machine, store, name)
        while not done:
            try:
                run.train(on_step)
                done = True
            except DivergedError as diverged:
                if training.on_divergence == "halve_learning_rate" and len(run.halved_at) < MOST_HALVINGS:
                    run = run.back_with_half_the_rate()
                else:
                    done, error = True, str(diverged)
    with gathered(run.model, run.training):
        if dist.get_rank() == 0:
            run.commit(error)
    run.close()
    dist.barrier()


def committed(store: Store, table: str, study: str, name: str) -> bool:
    """Whether the step is committed, asked once and told to every rank: ranks must not disagree."""
    answer = [dist.get_rank() == 0 and store.find(table, study, name) is not None]
    dist.broadcast_object_list(answer, src=0)
    return answer[0]


class Figures:
    """The mean loss in nats over all workers and the gradient norm of a step that the device may not have done yet."""

    def __init__(self, figures: Tensor) -> None:
        self._figures = figures.to("cpu", non_blocking=True)
        self._done = torch.Event("cuda") if figures.is_cuda else None
        if self._done is not None:
            self._done.record()

    def read(self) -> tuple[float, float]:
        """Loss and norm, once the step is done."""
        if self._done is not None:
            self._done.synchronize()
        loss, norm = self._figures.tolist()
        return loss, norm


class Run:
    """The state of one trial in one worker."""

    def __init__(
        self,
        study: Study,
        trial: Trial,
        rows: TokenRows,
        machine: Machine,
        store: Store,
        name: str,
        halved_at: list[int] | None = None,
    ) -> None:
        self.study, self.trial, self.rows, self.machine, self.store, self.name = (
            study,
            trial,
            rows,
            machine,
            store,
            name,
        )
        self.training = trial.arm.training(study.training)
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if machine.device == "cuda" else torch.device("cpu")
        )
        self.config = deepspeed_config(self.training, trial.arm.shape.context, dist.get_world_size(), machine.precision)
        self.passes: dict[bool, GraphedPass] = {}  # by whether loops are on
        self._build()
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.speeds: list[float] = []
        self.seconds, self.resumes, self.halved_at = 0.0, 0, list(halved_at or [])
        self.checkpoints = checkpoint.Checkpoints(self.engine, store, study.name, name)
        found = checkpoint.restore(self.engine, store, study.name, name)
        if found is not None:
            self.losses, self.norms, self.speeds = found.losses, found.gradient_norms, found.tokens_per_second
            self.seconds, self.resumes = found.training_seconds, found.resumes + 1
        if halved_at is not None:
            self.halved_at.append(len(self.losses))
        elif found is not None:
            self.halved_at = found.halved_at

    def _build(self) -> None:
        """Make the model with its first weights, its engine, and whatever a step needs."""
        training, arm, precision = self.training, self.trial.arm, self.machine.precision
        load_deepspeed(self.device)
        with self.device:  # drawn on the CPU, each piece is put there as soon as it is
            self.model = Decoder(
                arm.shape,
                arm.sharing,
                activation_checkpointing=training.activation_checkpointing == "non_reentrant",
                dropout=training.dropout,
                stochastic_depth=training.stochastic_depth,
                compute_dtype=PRECISIONS[precision] if training.stage == 0 else None,
            )
        self.model.initialise(self.trial.seed)
        scale_gradients(self.model, training.gradient_scale)
        self.engine = build_engine(self.model, training, self.config, self.device)
        if self.device.type == "cuda":
            repeat_to_the_bit(not training.fast)
            if training.stage < 3:  # its hooks and torch.compile do not go together
                self.model.compile_depths(repeatable=not training.fast)
                self._prepare()

    def _prepare(self) -> None:
        """Compile and load whatever a step needs, at every depth that it may have, before time is taken."""
        per_pass, context = self.config["train_micro_batch_size_per_gpu"], self.trial.arm.shape.context
        batch = torch.zeros(per_pass, context + 1, dtype=torch.int64, device=self.device)
        parameters = list(self.model.parameters())
        draws = self.training.dropout and self.training.activation_checkpointing != "off"  # no graph sets random states
        for looping in sorted({self.trial.arm.sharing.late == 0, True}):
            self.model.looping = looping
            if self.training.stage == 0 and not draws:
                pool = next((graph.pool for graph in self.passes.values()), None)
                scale = 1 / self.config["gradient_accumulation_steps"]
                graph = GraphedPass(partial(self._loss, self.model), parameters, batch, scale, pool)
                self.passes[looping] = graph
            else:  # asked for and not accumulated, so that the engine's hooks stay still
                loss, _ = self._loss(self.model, batch, torch.zeros((), device=self.device))
                torch.autograd.grad(loss, parameters, allow_unused=True)

    def _loss(self, model: Any, batch: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
        """The loss to learn from, and the cross-entropy to report, of token rows [B, context + 1]."""
        loss = model(batch[:, :-1], targets=batch[:, 1:])
        learnt = loss + soft.penalty(self.model, pull) if self.trial.arm.sharing.soft.on else loss
        return learnt, loss

    def close(self) -> None:
        """Give the device's memory back: another trial follows in this process."""
        self.checkpoints.close()
        self.passes.clear()
        self.engine.destroy()
        del self.checkpoints, self.engine, self.model
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def back_with_half_the_rate(self) -> Run:
        """A run in place of this one that diverged: from its last good checkpoint or the start, at half the rate.

        What the checkpoint right before the bad step holds is bad already: at any rate the step would be the same.
        """
        if dist.get_rank() == 0:
            checkpoint.discard(self.store, self.study.name, self.name, step=len(self.losses) - 1)
        self.close()
        dist.barrier()
        return Run(self.study, self.trial, self.rows, self.machine, self.store, self.name, self.halved_at)

    def rate(self, step: int) -> float:
        """The learning rate of a step (from 0)."""
        return learning_rate(self.training, step) * 0.5 ** sum(step >= start for start in self.halved_at)

    def train(self, on_step: OnStep) -> None:
        """Run the steps that are left, checkpointing on the way; the last checkpoint is written when this ends.

        A step's figures are read when the next one is on its way: a GPU that waits for its host to look stands still.
        """
        try:
            self._train(on_step)
        finally:
            self.checkpoints.wait()

    def _train(self, on_step: OnStep) -> None:
        self._read = time.perf_counter()
        pending: Figures | None = None
        for step in range(len(self.losses), self.training.steps):
            self.checkpoints.check()
            figures = self.step(step)
            if pending is not None:
                self._note(pending, on_step)
            pending = figures
            if (step + 1) % self.training.checkpoint_steps == 0 or step + 1 == self.training.steps:
                self._note(pending, on_step)
                pending = None
                if step + 1 < self.training.steps:
                    self._checkpoint(step + 1)

    def _note(self, figures: Figures, on_step: OnStep) -> None:
        """Note the figures of the next step; raises where they are not finite."""
        loss, norm = figures.read()
        now = time.perf_counter()
        elapsed, self._read = now - self._read, now
        self.seconds += elapsed
        self.losses.append(loss)
        self.norms.append(norm)
        self.speeds.append(self.training.tokens_per_step / elapsed)
        step = len(self.losses)
        if dist.get_rank() == 0:
            on_step(self.trial.name, step, loss, self.speeds[-1], elapsed)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"{self.trial.name} diverged at step {step}: loss {loss}, gradient norm {norm}; "
                f"a lower training.learning_rate than {self.training.learning_rate} may help"
                + (f" (it was halved {len(self.halved_at)} times)" if self.halved_at else "")
            )

    def _checkpoint(self, step: int) -> None:
        figures = self.losses, self.norms, self.speeds, self.seconds
        self.checkpoints.save(checkpoint.Progress(step, *figures, self.resumes, self.halved_at))
        self._read = time.perf_counter()

    def step(self, step: int) -> Figures:
        """One optimizer step; its figures are still to be read."""
        set_learning_rate(self.engine, self.rate(step))
        self.model.looping = step >= round(self.trial.arm.sharing.late * self.training.steps)
        sequences = self.training.tokens_per_step // self.trial.arm.shape.context
        world = dist.get_world_size()
        mine = worker_rows(step_rows(len(self.rows), sequences, self.trial.seed, step), dist.get_rank(), world)
        passes = self.config["gradient_accumulation_steps"]
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(mine.reshape(passes, -1)):
            if self.training.dropout or self.training.stochastic_depth:
                seed_masks(self.trial.seed, step, dist.get_rank(), number)
            loss = self._pass(self._batch(part), step)
            if self.engine.is_gradient_accumulation_boundary():
                norm = take_step(self.engine, self.training)
            else:
                self.engine.step()
            total += loss / passes
        dist.all_reduce(total)
        return Figures(torch.stack((total / world, norm.to(total))))

    def _pass(self, batch: Tensor, step: int) -> Tensor:
        """Forward and backward of one pass; its loss. Gradients are the parameters' own or the engine's."""
        tying = self.trial.arm.sharing.soft
        pull = tying.at(step / max(1, self.training.steps - 1)) if tying.on else 0.0
        graph = self.passes.get(self.model.looping)
        if graph is not None:
            loss = graph(batch, pull)
            self.engine.backward(backward_is_done(loss))
            return loss
        learnt, loss = self._loss(self.engine, batch, torch.tensor(pull, device=self.device))
        self.engine.backward(learnt)
        return loss.detach().float()

    def _batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Those rows on the device; from page-locked memory, so that the copy overlaps with what the GPU does."""
        batch = torch.from_numpy(self.rows.batch(rows))
        return batch.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else batch

    def commit(self, error: str | None) -> None:
        """Put weights, steps and the trial's row; the row comes last and makes the trial done."""
        study, names = self.study.name, {"trial": self.trial.name, "arm": self.trial.arm.name, "seed": self.trial.seed}
        size = self._commit_weights(names) if error is None else None
        count = len(self.losses)
        steps = {
            **{key: [value] * count for key, value in names.items()},
            "training_step": list(range(1, count + 1)),
            "tokens": [self.training.tokens_per_step * i for i in range(1, count + 1)],
            "loss_nats": self.losses,
            "learning_rate": [self.rate(i) for i in range(count)],
            "gradient_norm": self.norms,
            "tokens_per_second": self.speeds,
        }
        self.store.commit_rows("steps", study, self.name, pa.table(steps, schema=TABLES["steps"]))
        if self.trial.arm.sharing.soft.on and error is None:
            apart = [{**names, **row} for row in soft.distances(self.model)]
            fitted = pa.Table.from_pylist(apart, schema=TABLES["distances"])
            self.store.commit_rows("distances", study, self.name, fitted)
        row = {**names, **self._row(size, error)}
        rows = pa.Table.from_pylist([row], schema=TABLES["trials"])
        self.store.commit_rows("trials", study, self.name, rows, facts={"error": error})
        if error is None:
            checkpoint.discard(self.store, study, self.name)

    def _commit_weights(self, names: dict[str, Any]) -> int:
        """Commit the weights at the precision they are served in; their bytes."""
        dtype = torch.bfloat16 if self.machine.precision == "bf16" else torch.float32
        with tempfile.TemporaryDirectory(prefix="sharelm-weights-") as folder:
            path = Path(folder, WEIGHTS)
            save_weights(self.model, path, dtype)
            self.store.commit(MODELS, self.study.name, self.name, {WEIGHTS: path}, facts=names)
            return path.stat().st_size

    def _row(self, weights_bytes: int | None, error: str | None) -> dict[str, Any]:
        arm, training, world = self.trial.arm, self.training, dist.get_world_size()
        tokens = training.tokens_per_step * len(self.losses)
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
            "epochs": tokens / (len(self.rows) * arm.shape.context),
            "steps": len(self.losses),
            "workers": world,
            "device": self.machine.device_name,
            "precision": self.machine.precision,
            **asdict(stability(self.losses, self.norms, training.spike_factor)),
            "training_seconds": self.seconds,
            "tokens_per_second": tokens / self.seconds,
            "training_cost": self.seconds / 3600 * world * self.study.cost.price_per_hour / training.together,
            "currency": self.study.cost.currency,
            "resumes": self.resumes,
            "learning_rate_halvings": len(self.halved_at),
            "weights_bytes": weights_bytes,
            "resolved_json": json.dumps(self._resolved(), sort_keys=True),
        }

    def _resolved(self) -> dict[str, Any]:
        """Every setting as resolved; two arms' are compared key by key in the report."""
        engine_config = json.loads(json.dumps(self.config))
        return {
            "shape": asdict(self.trial.arm.shape),
            "sharing": asdict(self.trial.arm.sharing),
            "training": {**self.training.model_dump(mode="json"), "precision": self.machine.precision},
            "deepspeed": engine_config,
            "optimizer": "torch.optim.AdamW" if self.training.optimizer == "adamw" else "torch.optim.Muon with AdamW",
            "device": self.machine.device_name,
            "torch": torch.__version__,
        }
