"""The study: one frozen tree that says what is asked, with what, and what counts as an answer.

Every setting is a field here, with its description and its default; `docs/study.md` is made of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sharelm.errors import nearest
from sharelm.sharing import ModelShape
from sharelm.sharing.checks import check_shape
from sharelm.study.node import Fraction, Name, Node, OneOf, Positive, Ratio, Tokens, Unit, unique
from sharelm.study.training import Training
from sharelm.study.variant import Variant
from sharelm.tasks import TASK_KINDS, TaskKind

# Settings that say how the work is carried out, not what is computed: they may change between runs, enter no digest.
EXECUTION_SETTINGS = frozenset(
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

    name: Name = Field(description="Everything that the study stores is found under this name.")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        min_length=1,
        description="Every arm is trained once with each; a seed decides the first weights and the order of the "
        "tokens. No seed twice; seeds may be added later.",
    )

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("the same seed twice is not two runs")
        return seeds


class Source(Node):
    """`[[data.source]]`: where documents come from."""

    uri: str = Field(
        min_length=1,
        description="`builtin:python`; a file or glob (txt, jsonl, parquet; txt and jsonl also as .gz, .xz, .zst or "
        ".bz2), relative to the study file; `s3://...`; or `hf:OWNER/NAME[/CONFIG][:SPLIT]`.",
    )
    domain: Name | None = Field(
        default=None,
        description="The kind of text; results are reported for each domain. Required for everything but "
        "`builtin:python`, of which it picks `prose` or `code` (not set: both).",
    )
    text_field: str = Field(
        default="text", description="The field of a JSON line, or the column of a table, that holds the text."
    )
    document_start: str | None = Field(
        default=None,
        description="A regular expression. A line of a txt file in which it is found begins a document. Not set: a "
        "txt file is one document.",
    )
    split: Literal["auto", "training", "validation"] = Field(
        default="auto",
        description="Where the documents go. `auto`: `data.validation_fraction` of them are held out, by hash.",
    )
    max_bytes: Annotated[int, Field(gt=0), Unit("bytes")] | None = Field(
        default=None, description="Use a sample of whole documents of at most this size. Not set: all of them."
    )

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

    source: list[Source] = Field(min_length=1, description="One or more.")
    vocabulary: Annotated[int, Field(ge=257), Unit("tokens")] = Field(
        description="Entries of the tokenizer, exactly; the 256 bytes and the end-of-text token are among them."
    )
    tokenizer: str | None = Field(
        default=None,
        description="A `tokenizer.json` to use, relative to the study file. Not set: a byte-level BPE is trained on "
        "the training documents.",
    )
    validation_fraction: Fraction = Field(
        default=0.05, description="The part of the documents that is held out, of sources whose `split` is auto."
    )
    near_duplicate_similarity: Fraction = Field(
        default=0.8,
        description="Documents whose sets of word 5-grams have at least this Jaccard similarity go to the same split.",
    )


class Model(Node):
    """`[model]`: the independent reference model; every variant has its sizes."""

    width: Positive = Field(description="Width of the residual stream: a multiple of 2 x `heads`.")
    depth: Positive = Field(description="Number of depths: pairs of an attention and a feed-forward sub-layer.")
    heads: Positive = Field(description="Attention heads; `width / heads` is even.")
    kv_heads: Positive = Field(description="Heads of keys and values; they divide `heads`.")
    feed_forward: Positive = Field(description="Hidden width of the feed-forward sub-layer.")
    context: Tokens = Field(description="Length of the sequences that are trained on, and of the longest request.")
    rope_theta: Annotated[float, Field(gt=1)] = Field(
        default=10_000.0, description="Base of the wavelengths of the rotary position embedding."
    )
    activation: Literal["swiglu", "gelu"] = Field(
        default="swiglu",
        description="Of the feed-forward sub-layer: `swiglu` has three matrices (gate, up, down), `gelu` two (up, "
        "down).",
    )

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
    """`[twins]`: on which axes every variant is compared with an independent model that equals it there."""

    axes: list[Axis] = Field(
        default=["depth", "parameters"],
        min_length=1,
        description="On each of these axes every variant gets a twin; `depth` is always among them. Axes may be added "
        "later.",
    )
    ladder: list[Positive] = Field(
        default_factory=list,
        description="Depths of more independent models, from which the depth that a variant is worth is read. Depths "
        "may be added later.",
    )

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

    name: Name = Field(description="The name of the task in all tables and in the report.")
    kind: Annotated[str, OneOf(tuple(TASK_KINDS))] = Field(
        description="Loss on held-out documents (exactly one task is of the kind `bits_per_byte`); the last word of "
        "held-out passages; questions with choices from a file; or questions from a file whose answers are generated."
    )
    file: str | None = Field(
        default=None,
        description="For `multiple_choice` and `generation`, and required there: a JSONL file, one item a line (query, "
        "choices and gold; or query and answer), relative to the study file.",
    )
    max_items: Annotated[int, Field(gt=0), Unit("items")] | None = Field(
        default=None, description="Score at most this many items. Not set: all."
    )
    shards: Positive = Field(default=1, description="Tasks of the cluster into which the scoring of a trial is cut.")
    max_new_tokens: Annotated[int, Field(gt=0), Unit("tokens")] | None = Field(
        default=None, description="For `generation`, and required there: the most tokens of an answer."
    )
    stop: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, description="For `generation`: an answer ends before the first of these texts."
    )

    @property
    def traits(self) -> TaskKind:
        """What is known of its kind."""
        return TASK_KINDS[self.kind]

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        if kind not in TASK_KINDS:
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
    """`[evaluation]`: the tasks, and how many tokens are scored at once."""

    task: list[Task] = Field(min_length=1, description="One or more; more may be added later.")
    tokens_per_batch: Tokens = Field(
        default=8192, description="The most tokens that are scored at once, padding included."
    )

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
    """`[[cost.workload]]`: one kind of request whose serving is measured."""

    name: Name = Field(description="The name of the workload in all tables and in the report.")
    batch: Annotated[int, Field(gt=0), Unit("requests")] = Field(description="Requests that are served at once.")
    prompt_tokens: Tokens = Field(description="Length of each prompt.")
    new_tokens: Tokens = Field(description="Tokens generated for each prompt; with the prompt at most `model.context`.")
    repeats: Annotated[int, Field(ge=3)] = Field(
        default=10, description="How many times the workload is served and timed, after a warm-up."
    )


class Cost(Node):
    """`[cost]`: the price of a device, and the requests whose serving is measured."""

    price_per_hour: Annotated[float, Field(ge=0), Unit("`currency` an hour")] = Field(
        description="The price of one worker's device; all money is computed from it."
    )
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = Field(
        default="USD", description="The currency of `price_per_hour`, three capital letters."
    )
    assumed_tflops: Annotated[float, Field(gt=0), Unit("TFLOP/s")] = Field(
        description="What one worker sustains in training. Only `sharelm plan` uses it, to estimate hours."
    )
    workload: list[Workload] = Field(
        min_length=1,
        description="One or more; more may be added later. The first sets the memory axis.",
    )

    @field_validator("workload")
    @classmethod
    def _names_differ(cls, workloads: list[Workload]) -> list[Workload]:
        unique([workload.name for workload in workloads], "workload")
        return workloads


class Accuracy(Node):
    """`[kpi.accuracy]`: how much worse than its twin a variant may be and still count as not worse."""

    loss_margin_nats: Annotated[float, Field(gt=0), Unit("nats a token")] = Field(
        description="A variant is not worse where the interval of its loss difference lies below this."
    )
    task_margin: Annotated[float, Field(gt=0, lt=1), Unit("accuracy")] = Field(
        default=0.02, description="The same for the accuracy of cloze and multiple-choice tasks: 0.02 is two points."
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        default=0.95,
        description="Confidence of the intervals. For the losses over all domains it is that of all comparisons "
        "together (Bonferroni).",
    )


class InferenceCost(Node):
    """`[kpi.inference_cost]`: the largest ratios of a variant's serving costs to its same-depth twin's."""

    memory_ratio_max: Ratio = Field(description="Of peak memory while serving, for every workload.")
    cost_per_token_ratio_max: Ratio = Field(description="Of the cost of a generated token, for every workload.")


class Upkeep(Node):
    """`[kpi.upkeep]`: the largest ratios to the same-depth twin, for retraining and keeping the model."""

    training_cost_ratio_max: Ratio = Field(description="Of the cost of training.")
    stored_bytes_ratio_max: Ratio = Field(description="Of the size of the stored weights.")
    loss_spikes_max: Annotated[int, Field(ge=0), Unit("steps")] = Field(
        default=0, description="The most loss spikes (`training.spike_factor`) in any trial of the variant."
    )


class Kpi(Node):
    """`[kpi]`: thresholds fixed before training; every ratio is variant over same-depth twin."""

    accuracy: Accuracy
    inference_cost: InferenceCost
    upkeep: Upkeep


class Gate(Node):
    """`[rollout.STAGE]`: what the evidence must show before the stage is supported."""

    kpis: list[Literal["accuracy", "inference_cost", "upkeep"]] = Field(
        min_length=1, description="The KPIs that must be met."
    )
    seeds: Positive = Field(default=1, description="The fewest seeds that must have been compared.")
    training_tokens: Annotated[int, Field(ge=0), Unit("tokens")] = Field(
        default=0, description="The fewest tokens that the compared arms must have been trained on."
    )
    axes: list[Axis] = Field(
        default_factory=list,
        description="Axes besides depth on which the loss must be better or not worse; each is in `twins.axes`.",
    )


class Rollout(Node):
    """`[rollout]`: the stages of a roll-out in their order; each needs the one before it."""

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
    variant: list[Variant] = Field(min_length=1, description="One or more; more may be added later.")
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
