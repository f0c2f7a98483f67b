"""`[training]`: what every arm shares while it learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sharelm.study.node import Fraction, Node, Tokens, Unit
from sharelm.study.tune import Tune


class Training(Node):
    """`[training]`: how every arm is trained."""

    tokens: Tokens = Field(
        description="Tokens that every arm is trained on, but for the twins of the compute and time axes, which have "
        "numbers of their own. A multiple of `tokens_per_step`."
    )
    tokens_per_step: Tokens = Field(
        description="Tokens of one optimizer step, over all workers: a whole number of sequences of `model.context` "
        "tokens for each worker."
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        description="The peak learning rate. With `[training.tune]` one of the rates that are tried."
    )
    final_learning_rate_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.1, description="The learning rate of the last step, as a fraction of the peak."
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="`adamw` for all weights, or `muon` for the matrices of blocks and AdamW for everything else. "
        "Muon needs `zero_stage` 0 or auto.",
    )
    learning_rate_schedule: Literal["cosine", "warmup_stable_decay"] = Field(
        default="cosine",
        description="How the learning rate falls after the warm-up: along a half cosine, or flat and then in a "
        "straight line over the last `decay_fraction` of the steps.",
    )
    warmup_steps: Annotated[int, Field(ge=0), Unit("steps")] = Field(
        default=20,
        description="Steps over which the learning rate rises in a straight line to its peak; fewer than the steps of "
        "the training.",
    )
    decay_fraction: Fraction = Field(
        default=0.2, description="The part of the steps over which `warmup_stable_decay` lowers the learning rate."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.1,
        description="Decoupled weight decay of both optimizers, on matrices only. A matrix that several depths read "
        "is decayed once a step.",
    )
    beta1: Fraction = Field(default=0.9, description="Decay of AdamW's running mean of the gradient.")
    beta2: Fraction = Field(default=0.95, description="Decay of AdamW's running mean of the squared gradient.")
    epsilon: Annotated[float, Field(gt=0)] = Field(
        default=1e-8,
        description="Added to the root of AdamW's running mean of the squared gradient, before the division by it.",
    )
    gradient_clip: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="The largest global norm of the gradient; a larger one is scaled to it. 0: no clipping.",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Rate at which elements of what each sub-layer adds are set to zero."
    )
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Rate at which sub-layers of the last depth are left out for a sequence; it rises in a straight "
        "line from the first depth to this.",
    )
    gradient_scale: Literal["sum", "mean", "root"] = Field(
        default="sum",
        description="What the gradient of a block that is read n times is multiplied by: 1, 1 / n or 1 / sqrt(n).",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="The number format of the computation. `auto`: bf16 on a GPU, fp32 on a CPU."
    )
    fast: bool = Field(
        default=False,
        description="On a GPU, allow kernels that sum in any order. They are quicker, and the last bits of the "
        "results differ from run to run.",
    )
    activation_checkpointing: Literal["off", "non_reentrant"] = Field(
        default="off",
        description="`non_reentrant` keeps only what enters each depth and computes the rest again in the backward "
        "pass: less memory, more time.",
    )
    sequences_per_pass: Annotated[int, Field(gt=0), Unit("sequences")] | None = Field(
        default=None,
        description="Sequences of one forward pass of a worker; it divides the worker's sequences of a step. Not set: "
        "all of them in one pass.",
    )
    checkpoint_steps: Annotated[int, Field(gt=0), Unit("steps")] = Field(
        default=500, description="Steps from one checkpoint to the next."
    )
    on_divergence: Literal["stop", "halve_learning_rate"] = Field(
        default="stop",
        description="What follows a loss or gradient that is not finite: the trial ends as diverged, or it goes back "
        "to its last good checkpoint and goes on with half the learning rate, at most three times.",
    )
    spike_factor: Annotated[float, Field(gt=1)] = Field(
        default=2.0,
        description="A loss more than this many times the median of the (up to) 32 steps before it counts as a spike.",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="What trains, scores and serves. `auto`: GPUs where the cluster has any."
    )
    workers: Annotated[int, Field(gt=0), Unit("processes")] = Field(
        default=1, description="Data-parallel workers that train one model, each on a GPU or on CPUs of its own."
    )
    cpus_per_worker: Annotated[int, Field(gt=0), Unit("CPUs")] | None = Field(
        default=None,
        description="CPUs of a worker. Not set: a GPU's share of the CPUs of its node; without GPUs, as many as "
        "leave room for a whole group.",
    )
    zero_stage: Literal["auto", 0, 1, 2, 3] = Field(
        default="auto",
        description="DeepSpeed's ZeRO stage, the same for all arms. `auto`: the lowest stage at which the largest arm "
        "fits into memory, chosen when the study runs. Late loops need 0, 1 or 2.",
    )
    offload_optimizer: bool = Field(
        default=False,
        description="Keep the fp32 weights and AdamW's state in the memory of the host. Needs `adamw` and ZeRO stage "
        "1, 2, 3 or auto.",
    )
    trials_per_gpu: Literal["auto"] | Annotated[int, Field(ge=1, le=8), Unit("trials")] = Field(
        default="auto",
        description="Trials that share a GPU; more than 1 needs `workers = 1`. `auto`: two where steps are tiny, else "
        "one.",
    )
    trials_per_group: Annotated[int, Field(gt=0), Unit("trials")] = Field(
        default=16, description="The most trials that one group of workers trains one after another."
    )
    placement: Literal["pack", "spread"] = Field(
        default="pack", description="Put the workers of a group on as few nodes as possible, or on as many."
    )
    max_failures: Annotated[int, Field(ge=0)] = Field(
        default=3,
        description="How many times a group of workers that failed is started again. Every trial has these to itself.",
    )
    stall_timeout_s: Annotated[int, Field(gt=0), Unit("seconds")] = Field(
        default=600, description="A worker that keeps the others waiting for longer than this fails its group."
    )
    tune: Tune | None = Field(default=None, description="Without it every arm is trained with `learning_rate`.")

    @property
    def stage(self) -> int:
        """The ZeRO stage of a study that runs."""
        assert self.zero_stage != "auto", "the driver decides"
        return self.zero_stage

    @property
    def together(self) -> int:
        """Trials that share a device in a study that runs."""
        return 1 if self.trials_per_gpu == "auto" else self.trials_per_gpu

    def passes(self, context: int) -> int:
        """A worker's forward passes in one step."""
        sequences = self.tokens_per_step // context // self.workers
        return sequences // (self.sequences_per_pass or sequences)

    @property
    def steps(self) -> int:
        """Optimizer steps; the tokens are a whole number of steps."""
        return self.tokens // self.tokens_per_step

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if self.tokens % self.tokens_per_step:
            raise ValueError(f"tokens = {self.tokens} is not a multiple of tokens_per_step = {self.tokens_per_step}")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps} but there are only {self.steps} steps")
        if self.optimizer == "muon" and self.zero_stage not in (0, "auto"):
            raise ValueError(
                f"zero_stage = {self.zero_stage} cuts matrices into flat parts, and optimizer = 'muon' needs them "
                "whole; use zero_stage = 0"
            )
        if self.offload_optimizer and self.optimizer == "muon":
            raise ValueError("offload_optimizer = true needs ZeRO, which optimizer = 'muon' is not for; use 'adamw'")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError(
                "zero_stage = 0 keeps the optimizer on the device; offload_optimizer = true needs 1, 2, 3 or 'auto'"
            )
        if self.together > 1 and self.workers > 1:
            raise ValueError(
                f"trials_per_gpu = {self.trials_per_gpu}, but each of workers = {self.workers} needs a GPU of its own; "
                "use 1 or 'auto'"
            )
        if self.tune is not None:
            self.tune.check(self.learning_rate, self.tokens, self.tokens_per_step)
        return self
