"""The study: one frozen tree that says what is asked, with what, and what counts as an answer.

Every setting is a field here, with its description and its default; `docs/study.md` is made of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sharelm.sharing import ModelShape
from sharelm.sharing.checks import check_shape
from sharelm.study.cost import Cost
from sharelm.study.data import Data
from sharelm.study.evaluation import Evaluation
from sharelm.study.limits import Limits
from sharelm.study.node import Name, Node, Positive, Tokens, unique
from sharelm.study.power import Power
from sharelm.study.thresholds import STAGES, Axis, Kpi, Rollout
from sharelm.study.training import Training
from sharelm.study.variant import Variant

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
        "limits.device_hours",
        "limits.money",
        "power.wanted",
        "power.true_difference_nats",
        "power.seed_spread_nats",
        "power.document_spread_nats",
        "power.documents",
    }
)


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
    limits: Limits = Limits()
    power: Power = Power()

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
        if self.power.true_difference_nats >= self.kpi.accuracy.loss_margin_nats:
            raise ValueError(
                f"power.true_difference_nats = {self.power.true_difference_nats} is not below "
                f"kpi.accuracy.loss_margin_nats = {self.kpi.accuracy.loss_margin_nats}: nothing would be not worse"
            )
        if "depth" not in self.twins.axes:
            raise ValueError("twins.axes lacks 'depth': the KPIs compare with the same-depth twin")
        return self
