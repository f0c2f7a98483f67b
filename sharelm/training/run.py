"""The model and the engine of one trial in one worker, and one optimizer step of them."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from sharelm.machine import Machine
from sharelm.model import PRECISIONS, Decoder
from sharelm.study import Study, Trial
from sharelm.training import soft
from sharelm.training.engine import (
    build_engine,
    deepspeed_config,
    load_deepspeed,
    repeat_to_the_bit,
    set_learning_rate,
    take_step,
)
from sharelm.training.graph import GraphedPass, loss_without_backward
from sharelm.training.order import step_rows, worker_rows
from sharelm.training.rate import learning_rate
from sharelm.training.regularise import scale_gradients, seed_masks

if TYPE_CHECKING:
    from sharelm.data import TokenRows


class Figures:
    """The mean loss in nats over all workers and the gradient norm of a step, which the device may still be running."""

    def __init__(self, figures: Tensor) -> None:
        self._figures = figures.to("cpu", non_blocking=True)
        self._done = torch.Event("cuda") if figures.is_cuda else None
        if self._done is not None:
            self._done.record()

    def read(self) -> tuple[float, float]:
        """Wait for the step to finish; returns its loss and gradient norm."""
        if self._done is not None:
            self._done.synchronize()
        loss, norm = self._figures.tolist()
        return loss, norm


class Run:
    """The model, the engine and the data order of one trial in one worker.

    `halved_at` lists the steps (from 0) from which on the learning rate is halved once more.
    """

    def __init__(self, study: Study, trial: Trial, rows: TokenRows, machine: Machine) -> None:
        self.study, self.trial, self.rows, self.machine = study, trial, rows, machine
        self.training = trial.arm.training(study.training)
        on_gpu = machine.device == "cuda"
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self.config = deepspeed_config(self.training, trial.arm.shape.context, dist.get_world_size(), machine.precision)
        self.halved_at: list[int] = []
        self.graphs: dict[bool, GraphedPass] = {}  # by whether loops are on
        load_deepspeed(self.device)
        self.model = self._build_model()
        self.engine = build_engine(self.model, self.training, self.config, self.device)
        if self.device.type == "cuda":
            self._compile()

    def _build_model(self) -> Decoder:
        """The model with the first weights of the trial's seed, and its gradients' scaling."""
        training, arm = self.training, self.trial.arm
        with self.device:  # weights are drawn on the CPU and each piece is moved as soon as it is drawn
            model = Decoder(
                arm.shape,
                arm.sharing,
                activation_checkpointing=training.activation_checkpointing == "non_reentrant",
                dropout=training.dropout,
                stochastic_depth=training.stochastic_depth,
                compute_dtype=PRECISIONS[self.machine.precision] if training.stage == 0 else None,
            )
        model.initialise(self.trial.seed)
        scale_gradients(model, training.gradient_scale)
        return model

    def _compile(self) -> None:
        """Compile the model for a GPU and run or capture a pass, so that no timed step compiles anything."""
        repeat_to_the_bit(not self.training.fast)
        if self.training.stage == 3:  # torch.compile does not work with its hooks
            return
        self.model.compile_depths(repeatable=not self.training.fast)
        per_pass, context = self.config["train_micro_batch_size_per_gpu"], self.trial.arm.shape.context
        batch = torch.zeros(per_pass, context + 1, dtype=torch.int64, device=self.device)
        for looping in sorted({self.trial.arm.sharing.late == 0, True}):
            self.model.looping = looping
            self._prepare_pass(batch)

    def _prepare_pass(self, batch: Tensor) -> None:
        """Capture a graph of one pass over `batch` [B, context + 1], or run one pass where graphs are not used.

        A CUDA graph cannot set random states, which dropout under activation checkpointing needs. From stage 1 on
        DeepSpeed's hooks reduce gradients, which no graph holds.
        """
        parameters = list(self.model.parameters())
        sets_random_states = self.training.dropout and self.training.activation_checkpointing != "off"
        if self.training.stage == 0 and not sets_random_states:
            pool = next((graph.pool for graph in self.graphs.values()), None)
            scale = 1 / self.config["gradient_accumulation_steps"]
            graph = GraphedPass(partial(self._loss, self.model), parameters, batch, scale, pool)
            self.graphs[self.model.looping] = graph
        else:  # autograd.grad accumulates nothing, so that the engine's hooks are not called
            loss, _ = self._loss(self.model, batch, torch.zeros((), device=self.device))
            torch.autograd.grad(loss, parameters, allow_unused=True)

    def _loss(self, model: Any, batch: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
        """The loss to learn from, and the cross-entropy to report, of token rows [B, context + 1].

        `pull` is the weight of soft tying's penalty.
        """
        loss = model(batch[:, :-1], targets=batch[:, 1:])
        learnt = loss + soft.penalty(self.model, pull) if self.trial.arm.sharing.soft.on else loss
        return learnt, loss

    def rate(self, step: int) -> float:
        """The learning rate of a step (from 0)."""
        return learning_rate(self.training, step) * 0.5 ** sum(step >= start for start in self.halved_at)

    def step(self, step: int) -> Figures:
        """Launch one optimizer step (from 0); its figures can be read later."""
        set_learning_rate(self.engine, self.rate(step))
        self.model.looping = step >= round(self.trial.arm.sharing.late * self.training.steps)
        passes, world = self.config["gradient_accumulation_steps"], dist.get_world_size()
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(self._rows_of(step).reshape(passes, -1)):
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

    def _rows_of(self, step: int) -> NDArray[np.int64]:
        """The numbers of the rows that this worker reads in this step."""
        sequences = self.training.tokens_per_step // self.trial.arm.shape.context
        rows = step_rows(len(self.rows), sequences, self.trial.seed, step)
        return worker_rows(rows, dist.get_rank(), dist.get_world_size())

    def _pass(self, batch: Tensor, step: int) -> Tensor:
        """Run forward and backward of one pass; returns its loss.

        Gradients are left in the parameters at stage 0 and in the engine's buffers from stage 1 on.
        """
        tying = self.trial.arm.sharing.soft
        pull = tying.at(step / max(1, self.training.steps - 1)) if tying.on else 0.0
        graph = self.graphs.get(self.model.looping)
        if graph is not None:
            loss = graph(batch, pull)
            self.engine.backward(loss_without_backward(loss))
            return loss
        learnt, loss = self._loss(self.engine, batch, torch.tensor(pull, device=self.device))
        self.engine.backward(learnt)
        return loss.detach().float()

    def _batch(self, rows: NDArray[np.int64]) -> Tensor:
        """These rows on the device. On a GPU the copy comes from pinned memory and overlaps with computation."""
        batch = torch.from_numpy(self.rows.batch(rows))
        return batch.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else batch

    def close(self) -> None:
        """Free the device's memory for the next trial in this process."""
        self.graphs.clear()
        self.engine.destroy()
        del self.engine, self.model
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
