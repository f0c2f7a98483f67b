"""How many trials of a study share a GPU, and whether they fit it: what is chosen, and in words why."""

from __future__ import annotations

from collections.abc import Sequence

from sharelm.closed_form.memory import SHARE, fits
from sharelm.closed_form.packing import trials_together
from sharelm.errors import InputError
from sharelm.formats import si
from sharelm.study.arm import Arm
from sharelm.study.memory import most
from sharelm.study.training import Training


def trials_per_gpu(arms: Sequence[Arm], training: Training) -> tuple[int, str]:
    """How many trials are to share a GPU, and a line that says why."""
    largest = max(arm.footprint.training_flops_per_token for arm in arms) * training.tokens_per_step
    step = f"a step of the largest arm takes {largest / 1e9:.3g} GFLOP"
    if training.trials_per_gpu != "auto":
        return training.trials_per_gpu, f"trials that share a GPU: {training.trials_per_gpu}, as asked for; {step}"
    number = trials_together(largest, training.workers)
    if training.workers > 1:
        why = ", since a trial has several workers"
    else:
        why = f"; {step}, {'too few to keep one busy' if number > 1 else 'which keeps one busy'}"
    return number, f"trials that share a GPU: {number}{why}"


def check_room(arms: Sequence[Arm], training: Training, precision: str, memory: int) -> None:
    """Raise `InputError` where the trials that are to share a GPU do not fit its `memory` (bytes) together.

    The ZeRO stage is the one that a trial alone would have: how many share a GPU must not change what they are.
    """
    need = most(arms, training, precision, training.stage)
    together = need.parts.total * training.together
    if training.together > 1 and not fits(together, memory):
        raise InputError(
            f"training.trials_per_gpu = {training.together}: so many trials of arm {need.arm} need "
            f"{si(together, 'B')} together, and {SHARE:.0%} of a GPU's {si(memory, 'B')} may be "
            "filled; use fewer"
        )
