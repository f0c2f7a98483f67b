"""Where a step's time goes on the GPU: `python -m benchmarks.profile [--shapes NAME ...]`.

Steps as a trial takes them, recorded by torch's profiler, kernels sorted into kinds by name. Beside them the floor: the
model's FLOPs (closed form) at the speed of the card's measured matrix product. Prints a table for each shape, with the
kernels that take longest, and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.peers import ceilings
from benchmarks.plain import RandomRows, mean_seconds, synchronise
from benchmarks.runs import SCHEMES, SETTINGS, join_alone, run_of, stepping

WARM_UP, STEPS, LONGEST = 10, 10, 12
KINDS = {  # the first that matches
    "attention": r"flash|fmha|sdpa|flex_attention",
    "matrix products": r"gemm|nvjet|cutlass|splitK|cublas",
    "optimizer and clip": r"multi_tensor_apply|lpnorm",
    "compiled element-wise": r"^triton",
    "copies": r"Memcpy|Memset|copy",
    "other": "",
}


def kind_of(kernel: str) -> str:
    """What a kernel of this name does."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.IGNORECASE))


def measure(shape: str, scheme: str, tflops: float, **training: Any) -> dict[str, Any]:
    """Milliseconds of a step, on the clock and by kind of kernel."""
    setting = SETTINGS[shape]
    run = run_of(setting, scheme, RandomRows(setting.model), **training)
    step = stepping(run)
    for number in range(WARM_UP):
        step(number)
    clock = mean_seconds(step, range(WARM_UP, WARM_UP + STEPS)) * 1e3
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for number in range(STEPS):
            step(WARM_UP + STEPS + number)
        synchronise()
    kinds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    kernels: dict[str, list[float]] = defaultdict(list)
    for event in recorded.events():
        if event.device_type == DeviceType.CUDA:
            kernels[event.name].append(event.time_range.elapsed_us() / 1e3)
    for name, times in kernels.items():
        kinds[kind_of(name)] += sum(times) / STEPS
    longest = sorted(kernels.items(), key=lambda item: -sum(item[1]))[:LONGEST]
    flops = run.trial.arm.footprint.training_flops_per_token * run.training.tokens_per_step
    run.close()
    return {
        "shape": shape,
        "scheme": scheme,
        **training,
        "step_ms": clock,
        "kinds_ms": kinds,
        "kernels": sum(map(len, kernels.values())) / STEPS,
        "floor_ms": flops / tflops / 1e9,
        "longest": [(name[:110], len(times) / STEPS, sum(times) / STEPS) for name, times in longest],
    }


def show(row: dict[str, Any]) -> None:
    """Print one shape's table."""
    busy = sum(row["kinds_ms"].values())
    print(f"\n{row['shape']}, {row['scheme']}: {row['step_ms']:.2f} ms a step, {row['kernels']:.0f} kernels")
    for kind, spent in row["kinds_ms"].items():
        print(f"  {kind:24} {spent:8.2f} ms {spent / busy:7.1%}")
    print(f"  {'all kernels':24} {busy:8.2f} ms; the model's FLOPs at the measured ceiling {row['floor_ms']:.2f} ms")
    for name, count, spent in row["longest"]:
        print(f"    {spent:7.2f} ms {count:6.1f} x {name}")


def main() -> None:
    """Measure every shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SETTINGS), default=["124M", "study"])
    parser.add_argument("--scheme", choices=list(SCHEMES), default="independent")
    parser.add_argument("--fast", action="store_true", help="kernels may add in any order, as training.fast lets them")
    options = parser.parse_args()
    join_alone()
    card = ceilings()
    rows = [measure(shape, options.scheme, card["matrix_tflops"], fast=options.fast) for shape in options.shapes]
    for row in rows:
        show(row)
    print(json.dumps({"benchmark": "profile", "torch": torch.__version__, "card": card, "rows": rows}))


if __name__ == "__main__":
    main()
