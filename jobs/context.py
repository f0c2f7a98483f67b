"""What every step of a study is told on the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.nodes import Resources
from sharelm.machine import Machine
from sharelm.study import Study


@dataclass(frozen=True)
class Context:
    """Where a study's steps read and write, what they run on, and whom they tell how far they are."""

    study: Study
    store: str
    data: str  # the step of the study's data
    machine: Machine
    have: Resources
    board: Any
    night: str | None = None  # of a nightly run, whose trials are trained anew
