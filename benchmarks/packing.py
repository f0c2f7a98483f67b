"""Whether several trials are quicker side by side on one GPU than one after another: `python -m benchmarks.packing`.

For each shape one, two and more processes train a trial each, as a study's workers do, over the same seconds. Prints
all their tokens a second together beside one alone, and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.plain import GPU, RandomRows, synchronise
from benchmarks.runs import SETTINGS, join_alone, run_of, stepping

WARM_UP = 20
SHAPES = ("tiny", "mini", "midi", "small", "study-12k", "study")


def train(shape: str, seconds: float) -> None:
    """One process: says when it is warm, trains for this long when told, prints its tokens a second."""
    join_alone()
    setting = SETTINGS[shape]
    run = run_of(setting, "independent", RandomRows(setting.model))
    step = stepping(run)
    for number in range(WARM_UP):
        step(number)
    synchronise()
    print("warm", flush=True)
    sys.stdin.readline()
    started, number = time.perf_counter(), WARM_UP
    while time.perf_counter() - started < seconds:
        step(number)
        number += 1
    synchronise()
    rate = (number - WARM_UP) * run.training.tokens_per_step / (time.perf_counter() - started)
    print(rate, flush=True)
    os._exit(0)  # process groups' threads need not be waited for


def together(shape: str, count: int, seconds: float) -> float:
    """Tokens a second of so many processes together."""
    command = [sys.executable, "-m", "benchmarks.packing", "--train", shape, "--seconds", str(seconds)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(count)
    ]
    for process in processes:
        for said in process.stdout:  # type: ignore[union-attr]
            if said == "warm\n":
                break
        else:
            raise SystemExit(f"{shape}: one of {count} processes did not get warm")
    for process in processes:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    return sum(float(process.communicate()[0].strip().splitlines()[-1]) for process in processes)


def main() -> None:
    """Measure every shape with every number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SETTINGS), default=list(SHAPES))
    parser.add_argument("--most", type=int, default=3, help="processes side by side")
    parser.add_argument("--seconds", type=float, default=5.0, help="of training that are measured")
    parser.add_argument("--train", choices=list(SETTINGS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train, options.seconds)
    rows: list[dict[str, Any]] = []
    print(f"{'shape':12} {'processes':>9} {'tokens/s':>12} {'of one alone':>13}")
    for shape in options.shapes:
        for count in range(1, options.most + 1):
            rate = together(shape, count, options.seconds)
            rows.append({"shape": shape, "processes": count, "tokens_per_second": rate})
            alone = next(row["tokens_per_second"] for row in rows if row["shape"] == shape)
            print(f"{shape:12} {count:9} {rate:12,.0f} {rate / alone:13.2f}", flush=True)
    print(json.dumps({"benchmark": "packing", "gpu": GPU, "rows": rows}))


if __name__ == "__main__":
    main()
