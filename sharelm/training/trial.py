"""One trial, from its spec to its committed weights, steps and row. Every worker of the group runs this."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

from sharelm.machine import Machine
from sharelm.store import Store
from sharelm.study import Study, Trial
from sharelm.study.memory import explain_lack_of_memory
from sharelm.training.commit import commit_trial, committed
from sharelm.training.divergence import train_to_end
from sharelm.training.engine import gathered
from sharelm.training.loop import Loop, OnStep
from sharelm.training.run import Run

if TYPE_CHECKING:
    from sharelm.data import Corpus


def train_trial(
    study: Study, trial: Trial, corpus: Corpus, name: str, machine: Machine, store: Store, on_step: OnStep
) -> None:
    """Train one trial over the process group that is already there, and commit it under the name of its step.

    A trial that is committed is left alone; one with a checkpoint goes on from it. `on_step` is called on rank 0
    after every optimizer step with the trial's name, the step, its loss in nats, tokens per second and seconds.
    """
    if committed(store, "trials", study.name, name):
        return
    with explain_lack_of_memory(trial.name, trial.arm, trial.arm.training(study.training), machine.precision):
        run = Run(study, trial, corpus.training(trial.arm.shape.context), machine)
        loop, error = train_to_end(Loop(run, store, name), on_step)
    with gathered(loop.run.model, loop.run.training):
        if dist.get_rank() == 0:
            commit_trial(loop, corpus.tokenizer_json, error)
    loop.close()
    dist.barrier()
