"""What happens to a run that diverged: it ends there, or restarts at half the learning rate."""

from __future__ import annotations

import torch.distributed as dist

from sharelm.errors import DivergedError
from sharelm.training import checkpoint
from sharelm.training.loop import Loop, OnStep
from sharelm.training.run import Run

MOST_HALVINGS = 3


def train_to_end(loop: Loop, on_step: OnStep) -> tuple[Loop, str | None]:
    """Train until all steps are done or the run has diverged for good.

    Returns the loop that ended, which took the place of `loop` where the rate was halved, and the error of a run that
    diverged for good. `training.on_divergence` says whether the rate is halved, at most `MOST_HALVINGS` times.
    """
    while True:
        try:
            loop.train(on_step)
            return loop, None
        except DivergedError as diverged:
            run = loop.run
            if run.training.on_divergence != "halve_learning_rate" or len(run.halved_at) >= MOST_HALVINGS:
                return loop, str(diverged)
        loop = restart_at_half_rate(loop)


def restart_at_half_rate(diverged: Loop) -> Loop:
    """Close this loop and restart its run at half the rate, from its last good checkpoint or from the first step.

    A checkpoint right before the bad step is bad already and is removed: the step would be the same at any rate.
    """
    run = diverged.run
    if dist.get_rank() == 0:
        checkpoint.discard(diverged.store, run.study.name, diverged.name, step=len(diverged.losses) - 1)
    diverged.close()
    dist.barrier()
    restarted = Loop(Run(run.study, run.trial, run.rows, run.machine), diverged.store, diverged.name)
    restarted.run.halved_at = [*run.halved_at, len(restarted.losses)]
    return restarted
