"""How far two arms' held-out losses lie apart, paired over documents and seeds as a study's own comparisons are.

`python -m benchmarks.paired --store URI --study NAME ARM ARM ...` prints each arm beside the one before it: the order
in which a study's report, which knows variants and twins only, does not put them.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sharelm.errors import InputError
from sharelm.statistics.compare import mean_difference, paired
from sharelm.statistics.intervals import document_standard_errors
from sharelm.statistics.panel import Panel, build_panel
from sharelm.store import open_store

CONFIDENCE = 0.95


def difference(panel: Panel, one: str, other: str, seeds: list[int]) -> dict[str, float]:
    """Losses of two arms in nats a token, and how far the first lies above the second, with its interval."""
    metric = panel.deciding
    change = mean_difference(panel, (one, other), metric, seeds)[:, None]
    (error,) = document_standard_errors(change, metric.sizes[:, None], np.random.default_rng(0)).tolist()
    found = paired(panel, (one, other), metric, seeds, error, CONFIDENCE)
    assert found.ends is not None  # there are many documents
    ends = {"interval_low": found.ends[0], "interval_high": found.ends[1]}
    return {"loss_nats": found.variant_value, "difference": found.difference, **ends}


def main() -> None:
    """Print the arms of one study in the order asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--study", required=True)
    parser.add_argument("arms", nargs="+", metavar="ARM")
    options = parser.parse_args()
    scores = open_store(options.store).read("scores", options.study)
    known = pc.unique(scores["arm"]).to_pylist()
    unknown = [arm for arm in options.arms if arm not in known]
    if unknown:
        parser.error(f"study {options.study!r} has no arm {unknown[0]!r}; it has {', '.join(sorted(known))}")
    scores = scores.filter(pc.is_in(scores["arm"], pa.array(options.arms)))
    panel = build_panel(scores.filter(pc.equal(scores["kind"], "bits_per_byte")), "bits_per_byte")
    seeds = panel.common_seeds(*options.arms)
    rows: list[dict[str, Any]] = []
    print(f"{'arm':24} {'loss':>8} {'perplexity':>10}   above the one before ({CONFIDENCE:.0%} interval), nats")
    for before, arm in zip([options.arms[0], *options.arms], options.arms, strict=False):
        row = {"arm": arm, "before": before} | difference(panel, arm, before, seeds)
        rows.append(row)
        line = f"{arm:24} {row['loss_nats']:8.4f} {np.exp(row['loss_nats']):10.2f}"
        if arm != before:
            line += f"   {row['difference']:+.4f} ({row['interval_low']:+.4f} to {row['interval_high']:+.4f})"
        print(line)
    print(json.dumps({"benchmark": "paired", "study": options.study, "seeds": seeds, "rows": rows}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
