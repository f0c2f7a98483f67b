"""What checkpoints cost a trial: `python -m benchmarks.checkpoints [--width W] [--depth D] [--every N] [--store URI]`.

One worker, on a GPU where there is one, trains the same model on random tokens without checkpoints, with one every N
steps as a trial takes them, and with one every N steps that training waits for. Gives the seconds of a step on average,
what a save keeps training for, and the waits for a write to end: before the next checkpoint where N steps are quicker
than a write, and at the end. All that a checkpoint costs training but for these waits is its stall. Prints a table and
ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from typing import Any

import torch.distributed as dist

from benchmarks.plain import GPU, RandomRows, Setting
from benchmarks.runs import join_alone, run_of
from sharelm.sharing import ModelShape
from sharelm.store import Store, open_store
from sharelm.training.checkpoint import Checkpoints, Progress, discard
from sharelm.training.loop import Loop

CONTEXT, VOCABULARY = (256, 16_384) if GPU else (64, 2048)
APART_SECONDS = 120
WAYS = ("none", "beside", "waited for")


class Timed(Checkpoints):
    """Notes how long saving keeps training, and how long training waits for a checkpoint to be written."""

    waiting: bool  # for each checkpoint, training stands still
    saves: list[float]
    waited: float

    def wait(self) -> None:
        """As a trial does before the next checkpoint and at its end."""
        started = time.perf_counter()
        super().wait()
        self.waited += time.perf_counter() - started

    def save(self, progress: Progress) -> None:
        """As a trial does."""
        self.wait()
        started = time.perf_counter()
        super().save(progress)
        self.saves.append(time.perf_counter() - started)
        if self.waiting:
            self.wait()


def setting_of(width: int, depth: int) -> Setting:
    """A model of these sizes with heads of 64, and the sequences of a step."""
    heads = width // 64
    shape = ModelShape(VOCABULARY, width, heads, heads, 3 * width, CONTEXT)
    return Setting(shape, depth, 32 if GPU else 4)


def measure(way: str, setting: Setting, steps: int, every: int, store: Store) -> dict[str, Any]:
    """Train once in this way."""
    tokens = setting.sequences * CONTEXT * steps
    settings = {"tokens": tokens, "warmup_steps": 2, "checkpoint_steps": steps if way == "none" else every}
    run = run_of(setting, "independent", RandomRows(setting.model), **settings)
    loop = Loop(run, store, "benchmark")
    loop.checkpoints = timed = Timed(run.engine, store, run.study.name, "benchmark")
    timed.waiting, timed.saves, timed.waited = way == "waited for", [], 0.0
    run.step(0).read()  # the first step is slow
    started = time.perf_counter()
    loop.train(lambda *_: None)
    seconds = time.perf_counter() - started
    loop.close()
    discard(store, run.study.name, "benchmark")
    return {
        "way": way,
        "checkpoints": len(timed.saves),
        "seconds": seconds,
        "step_seconds": seconds / steps,
        "save_seconds": statistics.fmean(timed.saves) if timed.saves else 0.0,
        "waited_seconds": timed.waited,
        "state_bytes": 12 * run.trial.arm.footprint.stored_parameters,
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
    join_alone()
    rows = []
    with tempfile.TemporaryDirectory(prefix="sharelm-") as folder:
        store = open_store(options.store or folder)
        print(f"{'checkpoints':12} {'number':>6} {'s/step':>9} {'s/save':>9} {'s waited':>9} {'MiB':>7}")
        for way in WAYS:
            row = measure(way, setting_of(options.width, options.depth), options.steps, options.every, store)
            rows.append(row)
            print(
                f"{row['way']:12} {row['checkpoints']:6} {row['step_seconds']:9.4f} {row['save_seconds']:9.4f} "
                f"{row['waited_seconds']:9.4f} {row['state_bytes'] / 2**20:7.0f}",
                flush=True,
            )
    none, beside, _ = rows
    stall = (beside["seconds"] - beside["waited_seconds"] - none["seconds"]) / beside["checkpoints"]
    print(f"a checkpoint keeps training for {stall:.2f} s: {stall / APART_SECONDS:.2%} of it at one every two minutes")
    dist.destroy_process_group()
    print(
        json.dumps(
            {
                "benchmark": "checkpoints",
                "device": "gpu" if GPU else "cpu",
                **vars(options),
                "stall_seconds": stall,
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
