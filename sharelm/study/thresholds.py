"""`[kpi]` and `[rollout]`: the thresholds that are fixed before training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sharelm.study.node import Node, Positive, Ratio, Unit

STAGES = ("proof_of_concept", "important_workloads", "everywhere")
Axis = Literal["depth", "parameters", "compute", "memory", "time"]  # what a variant and its twin have equal


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
        description="Confidence of the intervals. Each kind of claim is wrong at most (1 - this) / 2 of the time; for "
        "the losses over all domains this holds of all comparisons together (Holm).",
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
