"""What `benchmarks.training` measures, each in a process of its own: `python -m benchmarks.peers PEER SHAPE SCHEME`.

Peers train the same model (Qwen3's layers, as the project's are; `gpt2` one of about the same FLOPs) on random tokens,
in bf16 on a GPU and fp32 on a CPU, with AdamW and clipping. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.equality import equal
from benchmarks.plain import (
    DEVICE,
    GPU,
    RandomRows,
    Setting,
    batch_of,
    call_seconds,
    plain_gpt2,
    plain_qwen3,
    timed,
    trainer,
)
from benchmarks.runs import SETTINGS, join_alone, run_of, stepping, study_of
from sharelm.model import Decoder
from sharelm.training.engine import repeat_to_the_bit
from sharelm.training.graph import GraphedPass


def loop(setting: Setting, scheme: str) -> dict[str, Any]:
    """The project's model, graph and loss under torch's own optimizer: no DeepSpeed, no Ray."""
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

    from jobs.load import LoadOfOthers
    from jobs.session import ray_session

    with tempfile.TemporaryDirectory() as folder, ray_session(LoadOfOthers(), print):
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
