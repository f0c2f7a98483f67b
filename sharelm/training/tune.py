"""A proxy: one short training of a model with one learning rate, of which only the loss is kept."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

import torch.distributed as dist

from sharelm.errors import DivergedError
from sharelm.machine import Machine
from sharelm.store import Store
from sharelm.study import Study, Trial, proxied
from sharelm.training import checkpoint
from sharelm.training.commit import committed
from sharelm.training.loop import Loop, OnStep
from sharelm.training.run import Run

if TYPE_CHECKING:
    from sharelm.data import Corpus

PROXIES = "proxies"


def train_proxy(
    study: Study, proxy: Trial, corpus: Corpus, name: str, machine: Machine, store: Store, on_step: OnStep
) -> None:
    """Train one proxy over the process group that is there, and commit its loss; arguments as of `train_trial`.

    The loss is the mean training loss of the last tenth of the steps, at least one: all proxies see the same rows in
    the same order. A proxy that ends above its first loss counts as diverged, like one whose loss is not finite: it
    would bend a parabola. A proxy that is committed is left alone; one with a checkpoint goes on from it.
    """
    if committed(store, PROXIES, study.name, name):
        return
    loop = Loop(Run(proxied(study), proxy, corpus.training(proxy.arm.shape.context), machine), store, name)
    try:
        loop.train(on_step)
        loss, first = fmean(loop.losses[-max(1, len(loop.losses) // 10) :]), loop.losses[0]
        error = None if loss <= first else f"{proxy.name} diverged: loss {loss}, from {first} at its first step"
    except DivergedError as diverged:
        error = str(diverged)
    if dist.get_rank() == 0:
        facts = {
            "proxy": proxy.name,
            "learning_rate": proxy.arm.learning_rate,
            "loss_nats": loss if error is None else None,
            "error": error,
            "training_seconds": loop.seconds,
        }
        store.commit(PROXIES, study.name, name, {}, facts=facts)
        checkpoint.discard(store, study.name, name)
    loop.close()
    dist.barrier()
