"""The study: one frozen tree that says what is asked, with what, and what counts as an answer.

Every field that a reader of the verdict could question is here and has no silent default elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sharelm.sharing import ModelShape
from sharelm.sharing.checks import check_shape
from sharelm.study.node import Fraction, Name, Node, Positive, unique
from sharelm.study.training import Training
from sharelm.study.variant import Variant
from sharelm.tasks import TASK_KINDS, TaskKind

# Settings that say how fast, not what: they may change between runs and enter no digest.
HOW_FAST = frozenset(
    {
        "training.workers",
        "training.cpus_per_worker",
        "training.sequences_per_pass",
        "training.trials_per_group",
        "training.trials_per_gpu",
        "training.placement",
        "training.max_failures",
        "training.stall_timeout_s",
        "training.checkpoint_steps",
        "evaluation.tokens_per_batch",
        "cost.assumed_tflops",
    }
)
STAGES = ("proof_of_concept", "important_workloads", "everywhere")
Axis = Literal["depth", "parameters", "compute", "memory", "time"]  # what a variant and its twin have equal


class About(Node):
    """`[study]`: the name under which everything is stored, and the seeds that are varied."""

    name: Name
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("the same seed twice is not two runs")
        return seeds


class Source(Node):
    """`[[data.source]]`: where documents come from.

    `uri` is `builtin:python`, a file or glob (txt, jsonl, parquet; .gz .xz .zst), `s3://...` or `hf:NAME[:SPLIT]`.
    """

    uri: str = Field(min_length=1)
    domain: Name | None = None
    text_field: str = "text"
    document_start: str | None = None  # a regular expression: a line of a txt file that matches begins a document
    split: Literal["auto", "training", "validation"] = "auto"
    max_bytes: Positive | None = None

    @field_validator("document_start")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _domain_known(self) -> Source:
        if self.domain is None and self.uri != "builtin:python":
            raise ValueError('domain is missing: name the kind of text, for example domain = "books"')
        return self


class Data(Node):
    """`[data]`: the corpora, how they are split, and the tokenizer."""

    source: list[Source] = Field(min_length=1)
    vocabulary: Annotated[int, Field(ge=257)]  # 256 bytes and the end-of-text token
    tokenizer: str | None = None  # a tokenizer.json to use instead of training one
    validation_fraction: Fraction = 0.05
    near_duplicate_similarity: Fraction = 0.8


class Model(Node):
    """`[model]`: the independent reference that every variant is asked about."""

    width: Positive
    depth: Positive
    heads: Positive
    kv_heads: Positive
    feed_forward: Positive
    context: Positive
    rope_theta: Annotated[float, Field(gt=1)] = 10_000.0
    activation: Literal["swiglu", "gelu"] = "swiglu"  # three feed-forward matrices, or two: up and down

    @model_validator(mode="after")
    def _heads_fit(self) -> Model:
        if self.heads > self.width:
            raise ValueError(f"heads = {self.heads} is more than width = {self.width}")
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide width = {self.width}")
        if (self.width // self.heads) % 2:
            raise ValueError(f"width / heads = {self.width // self.heads} is odd; rotary positions need pairs")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads = {self.kv_heads} does not divide heads = {self.heads}")
        return self


class Twins(Node):
    """`[twins]`: on which axes every variant meets an independent model that is equal to it there.

    `ladder` adds independent models of these depths, so that the depth a variant is worth can be read off them.
    """

    axes: list[Axis] = Field(default=["depth", "parameters"], min_length=1)
    ladder: list[Positive] = Field(default_factory=list)

    @field_validator("axes")
    @classmethod
    def _axes_differ(cls, axes: list[str]) -> list[str]:
        unique(axes, "axis")
        return axes

    @field_validator("ladder")
    @classmethod
    def _depths_differ(cls, ladder: list[int]) -> list[int]:
        if len(set(ladder)) != len(ladder):
            raise ValueError("the same depth twice is one rung")
        return ladder


class Task(Node):
    """`[[evaluation.task]]`: one way of scoring a trial, on held-out text or on a file of items."""

    name: Name
    kind: str  # of `sharelm.tasks.TASK_KINDS`
    file: str | None = None  # for a kind that reads one: JSONL, one item a line
    max_items: Positive | None = None
    shards: Positive = 1
    max_new_tokens: Positive | None = None  # for a kind that generates: an answer's longest
    stop: list[Annotated[str, Field(min_length=1)]] | None = None  # likewise: an answer ends before any of these

    @property
    def traits(self) -> TaskKind:
        """What is known of its kind."""
        return TASK_KINDS[self.kind]

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        if kind not in TASK_KINDS:
            from sharelm.study.load import nearest

            raise ValueError(f"there is no such kind of task{nearest(kind, TASK_KINDS)}")
        return kind

    @model_validator(mode="after")
    def _file_fits(self) -> Task:
        reads_file = self.traits.reads == "file"
        if reads_file and self.file is None:
            raise ValueError(f"task {self.name!r} is {self.kind} and names no file")
        if not reads_file and self.file is not None:
            raise ValueError(f"task {self.name!r} is {self.kind}, which reads held-out documents, but names a file")
        return self

    @model_validator(mode="after")
    def _answers_fit(self) -> Task:
        if self.traits.generates and self.max_new_tokens is None:
            raise ValueError(f"task {self.name!r} is {self.kind} and says no max_new_tokens")
        for field in ("max_new_tokens", "stop"):
            if not self.traits.generates and getattr(self, field) is not None:
                raise ValueError(f"task {self.name!r} is {self.kind}, which generates nothing, but says {field}")
        return self


class Evaluation(Node):
    """`[evaluation]`: the tasks, and how many sequences are scored at once."""

    task: list[Task] = Field(min_length=1)
    tokens_per_batch: Positive = 8192

    @field_validator("task")
    @classmethod
    def _names_differ(cls, tasks: list[Task]) -> list[Task]:
        unique([task.name for task in tasks], "task")
        if sum(task.traits.decides for task in tasks) != 1:
            deciding = " or ".join(kind.name for kind in TASK_KINDS.values() if kind.decides)
            raise ValueError(
                f"exactly one task of kind {deciding} is needed: the verdict rests on validation loss first"
            )
        return tasks

    @property
    def deciding(self) -> Task:
        """The task that the verdict rests on first."""
        return next(task for task in self.task if task.traits.decides)


class Workload(Node):
    """`[[cost.workload]]`: a request shape that is measured."""

    name: Name
    batch: Positive
    prompt_tokens: Positive
    new_tokens: Positive
    repeats: Annotated[int, Field(ge=3)] = 10


class Cost(Node):
    """`[cost]`: what an hour of one worker's device costs, and the requests it must serve."""

    price_per_hour: Annotated[float, Field(ge=0)]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    assumed_tflops: Annotated[float, Field(gt=0)]  # sustained by one worker; only `plan` uses it, to estimate hours
    workload: list[Workload] = Field(min_length=1)

    @field_validator("workload")
    @classmethod
    def _names_differ(cls, workloads: list[Workload]) -> list[Workload]:
        unique([workload.name for workload in workloads], "workload")
        return workloads


class Accuracy(Node):
    """`[kpi.accuracy]`: the losses that count as none."""

    loss_margin_nats: Annotated[float, Field(gt=0)]
    task_margin: Annotated[float, Field(gt=0, lt=1)] = 0.02  # of accuracy, for cloze and multiple choice
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95


class InferenceCost(Node):
    """`[kpi.inference_cost]`: at most these ratios of the same-depth twin's figures."""

    memory_ratio_max: Annotated[float, Field(gt=0)]
    cost_per_token_ratio_max: Annotated[float, Field(gt=0)]


class Upkeep(Node):
    """`[kpi.upkeep]`: at most these, for retraining and keeping the model."""

    training_cost_ratio_max: Annotated[float, Field(gt=0)]
    stored_bytes_ratio_max: Annotated[float, Field(gt=0)]
    loss_spikes_max: Annotated[int, Field(ge=0)] = 0


class Kpi(Node):
    """`[kpi]`: thresholds fixed before training; every ratio is variant over same-depth twin."""

    accuracy: Accuracy
    inference_cost: InferenceCost
    upkeep: Upkeep


class Gate(Node):
    """`[rollout.STAGE]`: what the evidence must show before the stage is supported."""

    kpis: list[Literal["accuracy", "inference_cost", "upkeep"]] = Field(min_length=1)
    seeds: Positive = 1
    training_tokens: Annotated[int, Field(ge=0)] = 0
    axes: list[Axis] = Field(default_factory=list)  # loss must be better or not worse on these as well


class Rollout(Node):
    """`[rollout]`: a small proof of concept first, then important workloads, then everywhere."""

    proof_of_concept: Gate
    important_workloads: Gate
    everywhere: Gate


@dataclass(frozen=True)
class Speeds:
    """Training tokens per second, measured one after the other on one machine."""

    variant: float
    twin: float


class Study(Node):
    """A whole study."""

    study: About
    data: Data
    model: Model
    variant: list[Variant] = Field(min_length=1)
    twins: Twins = Twins()
    training: Training
    evaluation: Evaluation
    cost: Cost
    kpi: Kpi
    rollout: Rollout

    def decided(self, **training: int) -> Study:
        """The same study, some settings of `[training]` that were "auto" decided."""
        return self.model_copy(update={"training": self.training.model_copy(update=training)})

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.name

    @property
    def shape(self) -> ModelShape:
        """The reference's shape."""
        return ModelShape(
            vocabulary=self.data.vocabulary,
            **{k: v for k, v in self.model.model_dump().items() if k != "depth"},
        )

    def tree(self) -> dict[str, Any]:
        """The study as plain values, every default filled in."""
        return self.model_dump(mode="json")

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        unique([variant.name for variant in self.variant], "variant")
        training, context = self.training, self.model.context
        if training.tokens_per_step % (context * training.workers):
            raise ValueError(
                f"training.tokens_per_step = {training.tokens_per_step} does not divide into whole sequences of "
                f"{context} tokens on {training.workers} workers"
            )
        sequences = training.tokens_per_step // (context * training.workers)
        if training.sequences_per_pass is not None and sequences % training.sequences_per_pass:
            raise ValueError(
                f"training.sequences_per_pass = {training.sequences_per_pass} does not divide "
                f"a worker's {sequences} sequences a step"
            )
        for variant in self.variant:
            try:
                sharing = variant.sharing(self.model.depth)
                check_shape(self.shape, sharing)
            except Exception as error:
                raise ValueError(f"variant {variant.name!r}: {error}") from error
            if sharing.late and training.zero_stage == 3:
                raise ValueError(
                    f"variant {variant.name!r} has a late loop, which training.zero_stage = 3 is not for: DeepSpeed "
                    "would apply old gradients again to what waits for the loop; use 0, 1 or 2"
                )
            if sharing.is_independent:
                raise ValueError(f"variant {variant.name!r} shares nothing; the independent reference is [model]")
        for workload in self.cost.workload:
            if workload.prompt_tokens + workload.new_tokens > context:
                raise ValueError(
                    f"cost.workload {workload.name!r}: prompt_tokens + new_tokens = "
                    f"{workload.prompt_tokens + workload.new_tokens} is more than model.context = {context}"
                )
        for task in self.evaluation.task:
            if task.max_new_tokens is not None and task.max_new_tokens >= context:
                raise ValueError(
                    f"evaluation.task {task.name!r}: max_new_tokens = {task.max_new_tokens} leaves no room for a query "
                    f"in model.context = {context}"
                )
        for stage in STAGES:
            for axis in getattr(self.rollout, stage).axes:
                if axis not in self.twins.axes:
                    raise ValueError(f"rollout.{stage}.axes names {axis!r}, which is not in twins.axes")
        if "depth" not in self.twins.axes:
            raise ValueError("twins.axes lacks 'depth': the KPIs compare with the same-depth twin")
        return self
