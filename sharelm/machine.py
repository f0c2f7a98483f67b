"""The machine that a step runs on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What the work runs on, as far as it can change a result."""

    device: str  # "cpu" or "cuda"
    precision: str  # "fp32" or "bf16"
    device_name: str
    memory: int = 0  # bytes that one worker may use; no digest depends on it
