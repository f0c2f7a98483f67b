"""What each regulariser does to shared and to independent models: `python -m benchmarks.regularisation --store URI`.

The study regularisation.toml beside this (its data in examples/wikitext-2/) is run once for each setting below, which
is all that differs. A table gives each arm's held-out loss and its difference from the same arm
without the setting, paired over documents and seeds as a study's own comparisons are. With RAY_ADDRESS set all
settings run at once on that cluster. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.paired import CONFIDENCE, difference
from sharelm.statistics.panel import Panel, build_panel
from sharelm.store import Store, open_store

STUDY = Path(__file__).with_suffix(".toml")
DATA = Path(__file__).parents[1] / "examples" / "wikitext-2"
PLAIN = "plain"
SETTINGS = {
    PLAIN: "",
    "dropout": "dropout = 0.1",
    "stochastic-depth": "stochastic_depth = 0.1",
    "decay": "weight_decay = 0.3",
    "gradient-mean": 'gradient_scale = "mean"',
}
ARMS = ("independent", "albert", "cycle")
SEEDS = [0, 1]


def study_text(setting: str, tokens: int | None) -> str:
    """The study with this setting; its file ends with the section [training]."""
    text = STUDY.read_text(encoding="utf-8").replace('name = "regularisation"', f'name = "regularisation-{setting}"', 1)
    if tokens is not None:
        text = re.sub(r"(?m)^tokens = .*", f"tokens = {tokens}", text, count=1)
    return f"{text}{SETTINGS[setting]}\n"


def run(setting: str, folder: Path, store: str, tokens: int | None) -> None:
    """Run the study of one setting."""
    path = folder / f"{setting}.toml"
    path.write_text(study_text(setting, tokens), encoding="utf-8")
    with (folder / f"{setting}.log").open("w", encoding="utf-8") as log:
        done = subprocess.run([sys.executable, "-m", "jobs.study", "--study", path, "--store", store], stderr=log)
    if done.returncode:
        raise SystemExit(f"{setting}: {Path(log.name).read_text(encoding='utf-8')[-2000:]}")


def losses(store: Store) -> tuple[Panel, dict[str, float]]:
    """Held-out losses of every trial of every setting as one panel of arms "arm@setting"; and final training losses."""
    tables, training = [], {}
    for setting in SETTINGS:
        study = f"regularisation-{setting}"
        scores = store.read("scores", study)
        scores = scores.filter(pc.equal(scores["kind"], "bits_per_byte"))
        arms = pa.array([f"{arm}@{setting}" for arm in scores["arm"].to_pylist()])
        tables.append(scores.set_column(scores.column_names.index("arm"), "arm", arms))
        for row in store.read("trials", study).to_pylist():
            training.setdefault(f"{row['arm']}@{setting}", []).append(row["final_loss_nats"])
    return build_panel(pa.concat_tables(tables), "bits_per_byte"), {k: float(np.mean(v)) for k, v in training.items()}


def effects(panel: Panel, training: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each setting and arm: its losses, and how far they are from the same arm's without the setting."""
    rows = []
    for setting in SETTINGS:
        for arm in ARMS:
            found = difference(panel, f"{arm}@{setting}", f"{arm}@{PLAIN}", SEEDS)
            if setting == PLAIN:
                found = {"loss_nats": found["loss_nats"]}
            names = {"setting": SETTINGS[setting] or PLAIN, "arm": arm}
            row = {**names, **found, "training_loss_nats": training[f"{arm}@{setting}"]}
            rows.append(row)
    return rows


def main() -> None:
    """Run every setting and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="a folder or s3://bucket/prefix; run again to carry on")
    parser.add_argument("--tokens", type=int, help="training tokens of a trial, instead of the study's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sharelm-regularisation-") as name:
        folder = Path(name)
        (folder / "wikitext-2").symlink_to(DATA.resolve())
        with ThreadPoolExecutor(len(SETTINGS) if os.environ.get("RAY_ADDRESS") else 1) as pool:
            list(pool.map(lambda setting: run(setting, folder, options.store, options.tokens), SETTINGS))
    rows = effects(*losses(open_store(options.store)))
    print(f"\n{'setting':28} {'arm':12} {'training':>9} {'held out':>9}   difference ({CONFIDENCE:.0%} interval), nats")
    for row in rows:
        line = f"{row['setting']:28} {row['arm']:12} {row['training_loss_nats']:9.4f} {row['loss_nats']:9.4f}"
        if "difference" in row:
            line += f"   {row['difference']:+.4f} ({row['interval_low']:+.4f} to {row['interval_high']:+.4f})"
        print(line)
    print(json.dumps({"benchmark": "regularisation", "seeds": SEEDS, "rows": rows}))


if __name__ == "__main__":
    main()
