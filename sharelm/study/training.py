"""`[training]`: what every arm shares while it learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sharelm.study.node import Fraction, Node, Positive
from sharelm.study.tune import Tune


class Training(Node):
    """`[training]`: what every arm shares while it learns."""

    tokens: Positive
    tokens_per_step: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    final_learning_rate_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices of blocks, AdamW for all else
    schedule: Literal["cosine", "warmup_stable_decay"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    decay_fraction: Fraction = 0.2  # of the steps, for warmup_stable_decay
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    gradient_clip: Annotated[float, Field(ge=0)] = 1.0  # 0 is no clipping
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of what each sub-layer adds
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.0  # rate of dropped sub-layers at the last depth
    gradient_scale: Literal["sum", "mean", "root"] = "sum"  # of a block read n times: x 1, 1 / n, 1 / sqrt(n)
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU, fp32 on a CPU
    fast: bool = False  # on a GPU also kernels that add in any order: quicker, and every run has other last bits
    activation_checkpointing: Literal["off", "non_reentrant", "reentrant"] = "off"
    sequences_per_pass: Positive | None = None  # a worker's sequences in one forward pass; all of its share if absent
    checkpoint_steps: Positive = 500
    on_divergence: Literal["stop", "halve_learning_rate"] = "stop"  # what a loss or gradient that is not finite brings
    spike_factor: Annotated[float, Field(gt=1)] = 2.0  # a loss this many times the running median is a spike
    device: Literal["auto", "cpu", "gpu"] = "auto"
    workers: Positive = 1
    cpus_per_worker: Positive | None = None  # all of a node's share if absent
    zero_stage: Literal["auto", 0, 1, 2, 3] = "auto"  # auto: the least that fits, known once a study runs
    offload_optimizer: bool = False  # fp32 weights and AdamW's state in the host's memory; from ZeRO stage 1 on
    trials_per_gpu: Literal["auto"] | Annotated[int, Field(ge=1, le=8)] = "auto"  # auto: two where steps are tiny
    trials_per_group: Positive = 16  # small trials one worker group trains, one after another
    placement: Literal["pack", "spread"] = "pack"  # of a group's workers: on few nodes, or on many
    max_failures: Annotated[int, Field(ge=0)] = 3
    stall_timeout_s: Positive = 600  # a worker that keeps the others waiting for longer fails its group
    tune: Tune | None = None  # every arm learns with learning_rate if absent

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
        if self.activation_checkpointing == "reentrant":
            raise ValueError(
                "activation_checkpointing = 'reentrant' crashes DeepSpeed when one block is used several times; "
                "use 'non_reentrant'"
            )
        if self.tune is not None:
            self.tune.check(self.learning_rate, self.tokens, self.tokens_per_step)
        return self
