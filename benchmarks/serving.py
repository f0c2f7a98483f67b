"""What measured serving depends on: `python -m benchmarks.serving --store STORE --study NAME`.

Measures every trial of a finished study whose weights are in the store, several times over, its steps as CUDA graphs
(as a study does on a GPU) and launched one by one. Prints each trial's decoding step and its largest over its smallest
median, and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.plain import DEVICE, GPU, PRECISION
from sharelm.artefact import MODELS, WEIGHTS
from sharelm.cost import measurement
from sharelm.cost.measurement import measure
from sharelm.cost.serving import graphed
from sharelm.machine import Machine
from sharelm.store import Store, open_store
from sharelm.store.studies import latest_study
from sharelm.study import Study

WAYS = {"graphed": graphed, "one by one": lambda request: request.steps()}


def measured(study: Study, files: dict[str, Path], rounds: int) -> list[dict[str, Any]]:
    """A row for each way, round, trial and workload."""
    machine, rows = Machine(DEVICE.type, PRECISION, "this"), []
    for way in WAYS if GPU else list(WAYS)[1:]:
        measurement.graphed = WAYS[way]
        for number in range(rounds):
            for trial, path in files.items():
                for workload in study.cost.workload:
                    found = measure(path, workload, machine, study.cost)
                    kept = ("decode_ms_p50", "decode_ms_p95", "prefill_ms_p50", "generated_tokens_per_second")
                    names = {"way": way, "round": number, "trial": trial, "workload": workload.name}
                    rows.append(names | {key: found[key] for key in kept})
    return rows


def weights_of(store: Store, study: str, seed: int, arms: list[str] | None) -> dict[str, Path]:
    """The weights of this seed's trials, by trial."""
    found = {str(manifest.facts["trial"]): manifest for manifest in store.manifests(MODELS, study)}
    wanted = {name: one for name, one in found.items() if one.facts["seed"] == seed}
    return {name: store.fetch(one, WEIGHTS) for name, one in wanted.items() if arms is None or one.facts["arm"] in arms}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="a folder or s3://bucket/prefix")
    parser.add_argument("--study", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", help="all if absent")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    store = open_store(options.store)
    study = latest_study(store, options.study)
    if study is None:
        raise SystemExit(f"{options.store} has no study {options.study!r}")
    rows = measured(study, weights_of(store, options.study, options.seed, options.arms), options.rounds)
    print(f"{'way':11} {'trial':36} {'decode ms (p50, p95) of each round':40} {'tokens/s':>10} {'spread':>7}")
    for way, trial in dict.fromkeys((row["way"], row["trial"]) for row in rows):
        mine = [row for row in rows if (row["way"], row["trial"]) == (way, trial)]
        steps = [row["decode_ms_p50"] for row in mine]
        text = "  ".join(f"{row['decode_ms_p50']:6.3f} {row['decode_ms_p95']:6.3f}" for row in mine)
        rate = mine[-1]["generated_tokens_per_second"]
        print(f"{way:11} {trial:36} {text:40} {rate:10,.0f} {max(steps) / min(steps):7.3f}")
    name = torch.cuda.get_device_name() if GPU else "cpu"
    print(json.dumps({"benchmark": "serving", "device": name, "study": options.study, "rows": rows}))


if __name__ == "__main__":
    main()
