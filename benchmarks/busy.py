"""A study on an idle machine and beside one busy process, in turn: `python -m benchmarks.busy STUDY [--rounds N]`.

Every run is a whole one, into a store of its own, as `sharelm run` does it. Prints a row a run with its wall time and
that of its training, then the ratios, and ends with one JSON line. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

BUSY = "while True: pass"
FIGURES = ("wall_seconds", "training_seconds")


def run(study: Path, busy: bool) -> dict[str, Any]:
    """Wall and training seconds of one run, and what it said of the machine."""
    other = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
    try:
        time.sleep(2)
        with tempfile.TemporaryDirectory() as store:
            command = [sys.executable, "-m", "jobs.study", "--study", str(study), "--store", store, "--json"]
            started = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            wall = time.monotonic() - started
    finally:
        if other is not None:
            other.kill()
            other.wait()
    facts = json.loads(done.stdout.splitlines()[-1])
    said = [line for line in done.stderr.splitlines() if line.startswith("other processes")]
    return {"busy": busy, "wall_seconds": wall, "training_seconds": facts["seconds"]["training"], "said": said}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    rows = []
    print(f"{'machine':8} {'whole, s':>9} {'training, s':>12}   said")
    for busy in [False, True] * options.rounds:
        row = run(options.study, busy)
        rows.append(row)
        figures = f"{row['wall_seconds']:9.1f} {row['training_seconds']:12.1f}"
        print(f"{'busy' if busy else 'idle':8} {figures}   {'; '.join(row['said'])}", flush=True)
    ratios = {}
    for figure in FIGURES:
        idle, loaded = (median(row[figure] for row in rows if row["busy"] == busy) for busy in (False, True))
        ratios[figure] = loaded / idle
    print(f"beside one busy process: whole {ratios['wall_seconds']:.2f} x, training {ratios['training_seconds']:.2f} x")
    print(json.dumps({"benchmark": "busy", "cpus": os.cpu_count(), "ratios": ratios, "rows": rows}))


if __name__ == "__main__":
    main()
