"""Training speeds of a variant and of its time twin's model on this machine, from a few steps as trials take them."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

import torch.distributed as dist

from sharelm.machine import Machine
from sharelm.store import Store
from sharelm.study import Arm, Study, Trial
from sharelm.training.commit import committed
from sharelm.training.run import Run

if TYPE_CHECKING:
    from sharelm.data import Corpus

SPEEDS = "speeds"
WARM_UP_STEPS, TIMED_STEPS = 5, 10


def measure_speeds(
    study: Study, pair: tuple[Arm, Arm], corpus: Corpus, name: str, machine: Machine, store: Store
) -> None:
    """Time the variant and the twin's model over the process group that is there, and commit tokens per second.

    A pair that is committed is not timed again: its figures decide how long the twin trains.
    """
    if committed(store, SPEEDS, study.name, name):
        return
    variant, twin = pair
    seconds: dict[Arm, list[float]] = {variant: [], twin: []}
    for arm in (variant, twin, twin, variant):  # so that a drift of the machine's speed affects both equally
        seconds[arm] += _step_seconds(study, arm, corpus, machine)
    if dist.get_rank() == 0:
        facts = {
            "variant": variant.name,
            "twin_like": twin.name,
            "variant_tokens_per_second": study.training.tokens_per_step / median(seconds[variant]),
            "twin_tokens_per_second": study.training.tokens_per_step / median(seconds[twin]),
            "device": machine.device_name,
            "precision": machine.precision,
            "workers": dist.get_world_size(),
        }
        store.commit(SPEEDS, study.name, name, {}, facts=facts)
    dist.barrier()


def _step_seconds(study: Study, arm: Arm, corpus: Corpus, machine: Machine) -> list[float]:
    """Seconds of each timed step; the warm-up is left out."""
    trial = Trial(arm, study.study.seeds[0])
    run = Run(study, trial, corpus.training(arm.shape.context), machine)
    seconds = []
    for step in range(WARM_UP_STEPS + TIMED_STEPS):
        dist.barrier()
        started = time.perf_counter()
        run.step(step % run.training.steps).read()
        seconds.append(time.perf_counter() - started)
    run.close()
    return seconds[WARM_UP_STEPS:]
