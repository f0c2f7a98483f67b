"""What checkpoints cost a trial: `python -m benchmarks.checkpoints [--width W] [--depth D] [--every N] [--store URI]`.

One worker, on a GPU where there is one, trains the same model on random tokens without checkpoints, with one every N
steps as a trial takes them, and with one every N steps that training waits for. Gives the seconds of a step on average,
the last checkpoint's end included, and what a save keeps training for. Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from sharelm.data import TokenRows
from sharelm.steps import Machine
from sharelm.store import Store, open_store
from sharelm.study import Study, trials
from sharelm.study.load import study_from_tree
from sharelm.training.checkpoint import Checkpoints, Progress, discard
from sharelm.training.trial import Run

GPU = torch.cuda.is_available()
CONTEXT, VOCABULARY = (256, 16_384) if GPU else (64, 2048)
WAYS = ("none", "beside", "waited for")


class RandomRows:
    """Rows of random tokens."""

    def __len__(self) -> int:
        return 4096

    def batch(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """As many rows as asked for."""
        return np.random.default_rng(int(indices[0])).integers(0, VOCABULARY, (len(indices), CONTEXT + 1))


class Timed(Checkpoints):
    """Notes how long saving keeps training, but for the wait for the checkpoint before."""

    waiting: bool  # for each checkpoint, training stands still
    seconds: list[float]
    waits: list[float]

    def save(self, progress: Progress) -> None:
        """As a trial does."""
        started = time.perf_counter()
        self.wait()
        free = time.perf_counter()
        super().save(progress)
        if self.waiting:
            self.wait()
        self.waits.append(free - started)
        self.seconds.append(time.perf_counter() - free)


def study_of(width: int, depth: int, steps: int, every: int) -> Study:
    """A study of one independent model."""
    sequences = 32 if GPU else 4
    heads = width // 64
    model = {"width": width, "depth": depth, "heads": heads, "kv_heads": heads, "feed_forward": 3 * width}
    training = {
        "tokens": CONTEXT * sequences * steps,
        "tokens_per_step": CONTEXT * sequences,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "checkpoint_steps": every,
        "zero_stage": 0,
    }
    kpi = {
        "accuracy": {"loss_margin_nats": 0.05},
        "inference_cost": {"memory_ratio_max": 1.0, "cost_per_token_ratio_max": 1.0},
        "upkeep": {"training_cost_ratio_max": 1.0, "stored_bytes_ratio_max": 1.0},
    }
    stage = {"kpis": ["accuracy"]}
    tree = {
        "study": {"name": "checkpoints", "seeds": [0]},
        "data": {"vocabulary": VOCABULARY, "source": [{"uri": "unused.txt", "domain": "text"}]},
        "model": {**model, "context": CONTEXT},
        "variant": [{"name": "albert", "scheme": "albert"}],
        "training": training,
        "evaluation": {"task": [{"name": "held_out", "kind": "bits_per_byte"}]},
        "cost": {
            "price_per_hour": 1.0,
            "assumed_tflops": 1.0,
            "workload": [{"name": "chat", "batch": 1, "prompt_tokens": 8, "new_tokens": 4}],
        },
        "kpi": kpi,
        "rollout": dict.fromkeys(("proof_of_concept", "important_workloads", "everywhere"), stage),
    }
    return study_from_tree(tree, "checkpoints.toml")


def measure(way: str, study: Study, store: Store) -> dict[str, Any]:
    """Train once in this way."""
    machine = Machine("cuda" if GPU else "cpu", "bf16" if GPU else "fp32", "this")
    trial = trials(study)[0]
    run = Run(study, trial, cast(TokenRows, RandomRows()), machine, store, "benchmark")
    run.checkpoints = timed = Timed(run.engine, store, study.study.name, "benchmark")
    timed.waiting, timed.seconds, timed.waits = way == "waited for", [], []
    run.step(0).read()  # the first step is slow
    started = time.perf_counter()
    run.train(lambda *_: None)
    seconds = time.perf_counter() - started
    run.close()
    discard(store, study.study.name, "benchmark")
    return {
        "way": way,
        "checkpoints": len(timed.seconds),
        "step_seconds": seconds / study.training.steps,
        "save_seconds": statistics.fmean(timed.seconds) if timed.seconds else 0.0,
        "wait_seconds": statistics.fmean(timed.waits) if timed.waits else 0.0,
        "state_bytes": 12 * trial.arm.footprint.stored_parameters,
    }


def main() -> None:
    """Measure every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024 if GPU else 128)
    parser.add_argument("--depth", type=int, default=16 if GPU else 4)
    parser.add_argument("--steps", type=int, default=200 if GPU else 24)
    parser.add_argument("--every", type=int, default=50 if GPU else 6)
    parser.add_argument("--store", help="a folder or s3://bucket/prefix; a temporary folder if absent")
    options = parser.parse_args()
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks
    dist.init_process_group("nccl" if GPU else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="sharelm-") as folder:
        store = open_store(options.store or folder)
        print(f"{'checkpoints':12} {'number':>6} {'s/step':>9} {'s/save':>9} {'s wait':>9} {'MiB':>7}")
        for way in WAYS:
            every = options.steps if way == "none" else options.every
            row = measure(way, study_of(options.width, options.depth, options.steps, every), store)
            rows.append(row)
            print(
                f"{row['way']:12} {row['checkpoints']:6} {row['step_seconds']:9.4f} {row['save_seconds']:9.4f} "
                f"{row['wait_seconds']:9.4f} {row['state_bytes'] / 2**20:7.0f}",
                flush=True,
            )
    dist.destroy_process_group()
    print(json.dumps({"benchmark": "checkpoints", "device": "gpu" if GPU else "cpu", **vars(options), "rows": rows}))


if __name__ == "__main__":
    main()
