"""What training waits for its input: `python -m benchmarks.loading [--shapes NAME ...]`.

The same trial takes turns: steps whose rows are read from memory-mapped shards, as a trial's are, and steps whose batch
is already on the device. What the first take longer is what input costs. Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.plain import GPU, mean_seconds
from benchmarks.runs import SETTINGS, join_alone, run_of, stepping
from sharelm.data.shards import TokenRows, token_type

TOKENS, SHARDS = (100_000_000, 3) if GPU else (200_000, 3)
WARM_UP, STEPS, TURNS = 20, 40 if GPU else 10, 7


def shards(folder: Path, vocabulary: int) -> list[Path]:
    """Random tokens in files as `prepare` writes them."""
    paths, random = [], np.random.default_rng(0)
    for number in range(SHARDS):
        paths.append(folder / f"{vocabulary}-{number}.npy")
        np.save(paths[-1], random.integers(0, vocabulary, TOKENS // SHARDS, dtype=token_type(vocabulary)))
    return paths


def measure(shape: str, folder: Path) -> dict[str, Any]:
    """Seconds of a step with its rows read and with the batch there, the median of the turns' means."""
    setting = SETTINGS[shape]
    run = run_of(
        setting, "independent", TokenRows.open(shards(folder, setting.model.vocabulary), setting.model.context)
    )
    step, read, number = stepping(run), run._batch, 0
    there = read(np.arange(setting.sequences))
    ways = {"there": lambda rows: there, "read": read}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(TURNS + 1):
        for way in list(ways)[:: 1 if turn % 2 else -1]:
            run._batch = ways[way]
            for _ in range(0 if turn else WARM_UP):
                step(number)
            spent = mean_seconds(step, range(number, number + STEPS))
            number += STEPS
            if turn:
                seconds[way].append(spent)
    run.close()
    medians = {way: median(times) for way, times in seconds.items()}
    waits = [with_input / without - 1 for with_input, without in zip(seconds["read"], seconds["there"], strict=True)]
    return {"shape": shape, **medians, "input_wait": median(waits), "lowest": min(waits), "highest": max(waits)}


def main() -> None:
    """Measure every shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SETTINGS), default=["124M", "study", "study-12k", "small"])
    options = parser.parse_args()
    join_alone()
    rows = []
    print(f"{'shape':12} {'ms, batch there':>16} {'ms, rows read':>14} {'input wait (lowest to highest turn)':>38}")
    with tempfile.TemporaryDirectory(prefix="sharelm-loading-") as folder:
        for shape in options.shapes:
            row = measure(shape, Path(folder))
            rows.append(row)
            print(
                f"{shape:12} {row['there'] * 1e3:16.3f} {row['read'] * 1e3:14.3f} {row['input_wait']:14.2%} "
                f"({row['lowest']:.2%} to {row['highest']:.2%})",
                flush=True,
            )
    print(json.dumps({"benchmark": "loading", "gpu": GPU, "rows": rows}))


if __name__ == "__main__":
    main()
