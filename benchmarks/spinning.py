"""What it costs that threads spin at a barrier, idle and beside a busy process: `python -m benchmarks.spinning`.

The steps of the quickstart's reference on all CPUs, in a process of its own for each setting of GNU OpenMP
(`GOMP_SPINCOUNT`; `default` leaves it unset), idle and beside a process that only computes, in turn. Prints a row a
setting, says whether all losses were the same to the bit, and ends with one JSON line. Nothing else should run on the
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

from benchmarks.busy import BUSY
from jobs.load import SPIN

SETTINGS = ("default", "0", "1000", "3000", "10000")
WARM_UP = 5


def steps(count: int) -> dict[str, Any]:
    """Median milliseconds of a step after the warm-up, and every loss."""
    import torch

    from benchmarks.plain import RandomRows
    from benchmarks.runs import SETTINGS as MODELS
    from benchmarks.runs import join_alone, run_of

    torch.set_num_threads(os.cpu_count() or 1)
    join_alone()
    run = run_of(MODELS["quickstart"], "independent", RandomRows(MODELS["quickstart"].model))
    seconds, losses = [], []
    for step in range(WARM_UP + count):
        started = time.perf_counter()
        losses.append(run.step(step).read()[0])
        seconds.append(time.perf_counter() - started)
    return {"milliseconds": 1e3 * median(seconds[WARM_UP:]), "losses": losses}


def measure(setting: str, busy: bool, count: int) -> dict[str, Any]:
    """The same in a fresh process with this setting, beside a busy one or not."""
    environment = {key: value for key, value in os.environ.items() if key != SPIN}
    environment |= {} if setting == "default" else {SPIN: setting}
    other = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
    try:
        command = [sys.executable, "-m", "benchmarks.spinning", "--child", "--steps", str(count)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    finally:
        if other is not None:
            other.kill()
            other.wait()
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"setting": setting, "busy": busy, **found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(steps(options.steps)))
        return
    asked = [(setting, busy) for _ in range(options.rounds) for setting in SETTINGS for busy in (False, True)]
    rows = [measure(setting, busy, options.steps) for setting, busy in asked]
    print(f"{SPIN:16} {'idle, ms a step':>18} {'busy, ms a step':>18}")
    for setting in SETTINGS:
        cells = []
        for busy in (False, True):
            own = [row["milliseconds"] for row in rows if (row["setting"], row["busy"]) == (setting, busy)]
            cells.append(" to ".join(f"{end:.0f}" for end in (min(own), max(own))))
        print(f"{setting:16} {cells[0]:>18} {cells[1]:>18}")
    same = len({tuple(row.pop("losses")) for row in rows}) == 1
    print(f"losses are {'the same to the bit' if same else 'NOT the same'} in all {len(rows)} runs")
    print(json.dumps({"benchmark": "spinning", "cpus": os.cpu_count(), "same_bits": same, "rows": rows}))


if __name__ == "__main__":
    main()
