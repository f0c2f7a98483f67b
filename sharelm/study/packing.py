"""How many trials share a GPU: two where their steps are so small that they wait for the host and not for it."""

from __future__ import annotations

from collections.abc import Sequence

from sharelm.errors import InputError
from sharelm.formats import si
from sharelm.study.arm import Arm
from sharelm.study.memory import SHARE, most
from sharelm.study.training import Training

# FLOPs. docs/results/training: together two trials were 1.15 to 1.9 times as fast up to this size, 0.9 times above.
SMALL_STEP = 1.5e11
TOGETHER = 2


def trials_per_gpu(arms: Sequence[Arm], training: Training) -> tuple[int, str]:
    """How many trials are to share a GPU, and a line that says why."""
    largest = max(arm.footprint.training_flops_per_token for arm in arms) * training.tokens_per_step
    step = f"a step of the largest arm takes {largest / 1e9:.3g} GFLOP"
    if training.trials_per_gpu != "auto":
        return training.trials_per_gpu, f"trials that share a GPU: {training.trials_per_gpu}, as asked for; {step}"
    if training.workers > 1:
        return 1, "trials that share a GPU: 1, since a trial has several workers"
    if largest > SMALL_STEP:
        return 1, f"trials that share a GPU: 1; {step}, which keeps one busy"
    return TOGETHER, f"trials that share a GPU: {TOGETHER}; {step}, too few to keep one busy"


def check_room(arms: Sequence[Arm], training: Training, precision: str, memory: int) -> None:
    """Raise `InputError` where the trials that are to share a GPU do not fit its `memory` (bytes) together.

    The ZeRO stage is the one that a trial alone would have: how many share a GPU must not change what they are.
    """
    need = most(arms, training, precision, training.stage)
    together = need.parts.total * training.together
    if training.together > 1 and together > SHARE * memory:
        raise InputError(
            f"training.trials_per_gpu = {training.together}: so many trials of arm {need.arm} need "
            f"{si(together, 'B')} together, and {SHARE:.0%} of a GPU's {si(memory, 'B')} may be "
            "filled; use fewer"
        )
