"""`[cost]`: the price of an hour, and the requests that are measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from sharelm.study.node import Name, Node, Tokens, Unit, unique


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
