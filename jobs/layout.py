"""How a study is laid out on the nodes that are there: resources, machine, trials on a GPU, ZeRO stage."""

from __future__ import annotations

from collections.abc import Callable

from jobs.nodes import Resources, fit, living_nodes, machine
from sharelm.machine import Machine
from sharelm.study import Study, expand
from sharelm.study.memory import least_stage
from sharelm.study.packing import check_room, trials_per_gpu


def lay_out(study: Study, store: str, data: str, say: Callable[[str], None]) -> tuple[Study, Resources, Machine]:
    """The study with what its settings leave to the machine decided, and what it runs on.

    `data` is the step of the study's data; `say` tells the user why something was decided. Raises `InputError` where
    the nodes cannot hold the study.
    """
    nodes, models = living_nodes(), expand(study).models
    have = fit(study.training, nodes)
    found = machine(study, have, nodes, store, data)
    together, why = trials_per_gpu(models, study.training) if have.use_gpu else (1, None)
    study = study.decided(trials_per_gpu=together)
    have = fit(study.training, nodes)
    if why is not None:
        say(why)
    if study.training.zero_stage == "auto":
        stage, why = least_stage(models, study.training, found.precision, found.memory)
        study = study.decided(zero_stage=stage)
        say(why)
    check_room(models, study.training, found.precision, found.memory)
    return study, have, found
