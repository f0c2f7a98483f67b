"""The models that benchmarks train, and trials of them as a user's study would train them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.plain import DEVICE, GPU, PRECISION, Setting
from sharelm.machine import Machine
from sharelm.sharing import ModelShape
from sharelm.study import Study, Trial, expand
from sharelm.study.load import study_from_tree
from sharelm.study.thresholds import STAGES
from sharelm.training.run import Run

_124M = ModelShape(50_304, 768, 12, 12, 2048, 1024)
_355M = ModelShape(50_304, 1024, 16, 16, 2736, 1024)
_STUDY = ModelShape(16_384, 512, 8, 8, 2048, 512, activation="gelu")
SETTINGS = {
    "124M": Setting(_124M, 12, 64),
    "124M-small-batch": Setting(_124M, 12, 24),
    "355M": Setting(_355M, 24, 32),
    "355M-small-batch": Setting(_355M, 24, 8),
    "study": Setting(_STUDY, 8, 48),
    "study-12k": Setting(_STUDY, 8, 24),
    "midi": Setting(ModelShape(8192, 256, 8, 8, 704, 256), 4, 16),
    "mini": Setting(ModelShape(4096, 128, 4, 4, 352, 128), 4, 32),
    "quickstart": Setting(ModelShape(512, 64, 4, 2, 176, 64), 4, 32),
    "small": Setting(ModelShape(8192, 256, 8, 8, 704, 256), 8, 64),
    "tiny": Setting(ModelShape(512, 64, 4, 4, 128, 64), 2, 8),
}
SCHEMES: dict[str, dict[str, Any]] = {
    "independent": {},
    "albert": {"scheme": "albert"},
    "cycle": {"scheme": "cycle", "blocks": 4},
    "relaxed": {"scheme": "relaxed", "blocks": 4, "rank": 64},
    "atoms": {"scheme": "atoms", "blocks": 4},
}


def study_of(setting: Setting, scheme: str, **training: Any) -> tuple[Study, Trial]:
    """A study whose trial of this scheme is what a user's would be."""
    shape, context = setting.model, setting.model.context
    tokens_per_step = setting.sequences * context
    tree = {
        "study": {"name": "benchmark", "seeds": [0]},
        "data": {"vocabulary": shape.vocabulary, "source": [{"uri": "none.txt", "domain": "none"}]},
        "model": {
            "width": shape.width,
            "depth": setting.depth,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "feed_forward": shape.feed_forward,
            "activation": shape.activation,
            "context": context,
        },
        "variant": [{"name": "shared", "scheme": "albert"} | SCHEMES[scheme]],
        "twins": {"axes": ["depth"]},
        "training": {
            "tokens": tokens_per_step * 10_000,
            "tokens_per_step": tokens_per_step,
            "learning_rate": 1e-3,
            "device": "gpu" if GPU else "cpu",
            "zero_stage": 0,
            **training,
        },
        "evaluation": {"task": [{"name": "held_out", "kind": "bits_per_byte"}]},
        "cost": {
            "price_per_hour": 0.0,
            "assumed_tflops": 1.0,
            "workload": [{"name": "chat", "batch": 1, "prompt_tokens": 8, "new_tokens": 8}],
        },
        "kpi": {
            "accuracy": {"loss_margin_nats": 0.1},
            "inference_cost": {"memory_ratio_max": 1, "cost_per_token_ratio_max": 1},
            "upkeep": {"training_cost_ratio_max": 1, "stored_bytes_ratio_max": 1},
        },
        "rollout": {stage: {"kpis": ["accuracy"]} for stage in STAGES},
    }
    study = study_from_tree(tree, "benchmark")
    wanted = "independent" if scheme == "independent" else "shared"
    return study, next(trial for trial in expand(study).trials if trial.arm.name == wanted)


def join_alone() -> None:
    """Make a process group of this process alone."""
    with socket.create_server(("127.0.0.1", 0)) as free:  # several may run side by side
        port = str(free.getsockname()[1])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    torch.distributed.init_process_group("nccl" if GPU else "gloo")


def run_of(setting: Setting, scheme: str, rows: Any, **training: Any) -> Run:
    """A trial's run over the process group that is there."""
    study, trial = study_of(setting, scheme, **training)
    return Run(study, trial, rows, Machine(DEVICE.type, PRECISION, "benchmark"))


def stepping(run: Any) -> Callable[[int], None]:
    """A step of the run, whose figures are read a step later, as a trial does."""
    pending: list[Any] = []

    def step(number: int) -> None:
        pending.append(run.step(number))
        if len(pending) > 1:
            pending.pop(0).read()

    return step
