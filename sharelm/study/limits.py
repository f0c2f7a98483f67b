"""`[limits]`: what a study may spend."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sharelm.study.node import Node, Unit


class Limits(Node):
    """`[limits]`: where a study stops by itself. What is committed stays; with a higher limit it carries on."""

    device_hours: Annotated[float, Field(gt=0), Unit("hours")] | None = Field(
        default=None,
        description="Hours of devices (GPUs, or CPU workers) that the study may take, all its runs together.",
    )
    money: Annotated[float, Field(gt=0), Unit("`cost.currency`")] | None = Field(
        default=None, description="The same in money, at `cost.price_per_hour`."
    )
