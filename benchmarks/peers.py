"""What `benchmarks.training` measures, each in a process of its own: `python -m benchmarks.peers PEER SHAPE SCHEME`.

Peers train the same model (Qwen3's layers, as the project's are; `gpt2` one of about the same FLOPs) on random tokens,
in bf16 on a GPU and fp32 on a CPU, with AdamW and clipping. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain import (
    DEVICE,
    GPU,
    PRECISION,
    RandomRows,
    Setting,
    batch_of,
    call_seconds,
    plain_gpt2,
    plain_qwen3,
    timed,
    trainer,
)
from sharelm.machine import Machine
from sharelm.model import Decoder
from sharelm.sharing import ModelShape
from sharelm.study import Study, Trial, trials
from sharelm.study.load import study_from_tree
from sharelm.study.tree import STAGES

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
    return study, next(trial for trial in trials(study) if trial.arm.name == wanted)


def loop(setting: Setting, scheme: str) -> dict[str, Any]:
    """The project's model, graph and loss under torch's own optimizer: no DeepSpeed, no Ray."""
    from sharelm.training.engine import repeat_to_the_bit
    from sharelm.training.graph import GraphedPass

    _, trial = study_of(setting, scheme)
    built, shape = time.perf_counter(), setting.model
    model = Decoder(shape, trial.arm.sharing, compute_dtype=torch.bfloat16 if GPU else None).initialise(0)
    model = model.to(DEVICE).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=GPU)
    batch = batch_of(setting)

    def loss_of(rows: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        loss = model(rows[:, :-1], targets=rows[:, 1:])
        return loss, loss

    graph: Any = None
    if GPU:
        repeat_to_the_bit()
        model.compile_depths()
        graph = GraphedPass(loss_of, parameters, batch, 1.0)

    def step(_: int) -> None:
        if graph is None:
            loss_of(batch, batch)[0].backward()
        else:
            graph(batch, 0.0)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return timed(step, setting.sequences * shape.context, built)


def join_alone() -> None:
    """Make a process group of this process alone."""
    with socket.create_server(("127.0.0.1", 0)) as free:  # several may run side by side
        port = str(free.getsockname()[1])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    torch.distributed.init_process_group("nccl" if GPU else "gloo")


def run_of(setting: Setting, scheme: str, rows: Any, **training: Any) -> Any:
    """A trial's run over the process group that is there."""
    from sharelm.training.run import Run

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


def deepspeed(setting: Setting, scheme: str, **training: Any) -> dict[str, Any]:
    """A trial as it is trained, with these settings, and how soon the next one of its shape makes its first step."""
    rows, built = RandomRows(setting.model), time.perf_counter()
    run = run_of(setting, scheme, rows, **training)
    found = timed(stepping(run), run.training.tokens_per_step, built)
    run.close()
    built = time.perf_counter()
    run = run_of(setting, scheme, rows, **training)
    run.step(0).read()
    return found | {"again_seconds": time.perf_counter() - built}


def ray_train(setting: Setting, scheme: str) -> dict[str, Any]:
    """The same as a Ray Train worker runs it."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from jobs.session import ray_session

    with tempfile.TemporaryDirectory() as folder, ray_session():
        path = Path(folder, "found.json")

        def worker() -> None:
            torch.set_num_threads(os.cpu_count() or 1)  # Ray allows one
            if GPU:
                torch.cuda.set_device(ray.train.torch.get_device())
            path.write_text(json.dumps(deepspeed(setting, scheme)), encoding="utf-8")

        TorchTrainer(
            worker,
            torch_config=TorchConfig(backend="nccl" if GPU else "gloo"),
            scaling_config=ScalingConfig(num_workers=1, use_gpu=GPU),
            run_config=RunConfig(storage_path=folder),
        ).fit()
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def ceilings() -> dict[str, Any]:
    """What the card does at best: a bf16 product of 8192 x 8192 matrices of random values, and a copy."""
    one, other = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    large = torch.empty(2**31, dtype=torch.uint8, device=DEVICE)
    found = {}
    for name, run, amount in (
        ("matrix_tflops", lambda: one @ other, 2 * 8192**3 / 1e12),
        ("copy_terabytes_per_second", lambda: large.clone(), 2 * 2**31 / 1e12),
    ):
        found[name] = amount / call_seconds(run)
    return {**found, "device": torch.cuda.get_device_name(), "torch": torch.__version__}


def main() -> None:
    """Measure one peer."""
    from benchmarks.equality import equal

    peer, name, scheme = sys.argv[1:4]
    setting = SETTINGS[name]
    if peer in ("deepspeed", "fast", "two-passes", "equal"):
        join_alone()
    peers: dict[str, Callable[[], dict[str, Any]]] = {
        "eager": lambda: plain_qwen3(setting, compiled=False),
        "compiled": lambda: plain_qwen3(setting, compiled=True),
        "gpt2": lambda: plain_gpt2(setting),
        "trainer": lambda: trainer(setting),
        "loop": lambda: loop(setting, scheme),
        "deepspeed": lambda: deepspeed(setting, scheme),
        "ray": lambda: ray_train(setting, scheme),
        "fast": lambda: deepspeed(setting, scheme, fast=True),
        "two-passes": lambda: deepspeed(setting, scheme, sequences_per_pass=setting.sequences // 2),
        "equal": lambda: equal(setting, scheme),
        "ceilings": ceilings,
    }
    print(json.dumps(peers[peer]()))
    sys.stdout.flush()
    os._exit(0)  # process groups' threads need not be waited for


if __name__ == "__main__":
    main()
