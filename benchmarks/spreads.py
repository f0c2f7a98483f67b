"""How far seeds, documents and items moved the figures of a finished study, for simulated studies to move as far.

`python -m benchmarks.spreads --store URI --study english > benchmarks/spreads.json` after unpacking
`docs/results/english/store.tar.xz`; `benchmarks.coverage` reads the file. Losses are in nats a token.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from sharelm.statistics.intervals import Floats
from sharelm.statistics.panel import Panel, build_panel
from sharelm.store import open_store

QUANTILES = 200  # steps between the smallest and the largest document


def _quantiles(sizes: Floats) -> list[float]:
    found: list[float] = np.quantile(sizes, np.linspace(0, 1, QUANTILES + 1)).round(1).tolist()
    return found


def _seeds(figures: Floats) -> float:
    """Standard deviation over seeds of one arm's figure, apart from what all arms share; `figures` (arms, seeds)."""
    left = figures - figures.mean(0) - figures.mean(1, keepdims=True) + figures.mean()
    arms, seeds = figures.shape
    return float(np.sqrt((left**2).sum() / (arms - 1) / (seeds - 1)))


def _parts(left: Floats, sizes: Floats) -> Floats:
    """The two parts of documents' variance: one that all sizes have, and one that falls as 1 / size (at the mean size).

    `left` is one figure a document, its weighted mean zero. They are solved from two moments: the weighted mean square
    and the squared standard error of the weighted mean, which large documents decide.
    """
    weights, count = sizes / sizes.sum(), len(sizes)
    square, error = (weights * left**2).sum(), (weights**2 * left**2).sum()
    # square = common + falling, error = common * sum(weights^2) + falling / count
    common = max(0.0, (error - square / count) / ((weights**2).sum() - 1 / count))
    return np.array([common, max(0.0, square - common)])


def _documents(panel: Panel, pairs: list[tuple[str, str]], seeds: list[int]) -> dict[str, Any]:
    """Variance parts of the documents' true differences by pair, and of one arm's noise in one seed; two seeds."""
    metric, found, noises, skews = panel.deciding, {}, [], []
    weights = metric.sizes / metric.sizes.sum()
    for variant, twin in pairs:
        ours, theirs = (metric.numerators[panel.rows(arm, seeds)] / metric.sizes for arm in (variant, twin))
        first, second = (ours - theirs) - ((ours - theirs) @ weights)[:, None]
        mean, half = (first + second) / 2, (first - second) / 2
        noise = _parts(half, metric.sizes)  # of a mean over two seeds; that of one arm in one seed is the same
        noises.append(noise)
        found[f"{variant} - {twin}"] = np.maximum(_parts(mean, metric.sizes) - noise, 0.0).tolist()
        skews.append(stats.skew(mean))
    return {"pairs": found, "noise": np.mean(noises, axis=0).tolist(), "skew": float(np.median(skews))}


def measure(uri: str, study: str) -> dict[str, Any]:
    """The spreads of the newest comparisons of this study, which has two seeds."""
    store = open_store(uri)
    newest = max(store.manifests("comparisons", study), key=lambda manifest: manifest.committed_at)
    compared = store.read("comparisons", study, steps=[newest.step]).to_pylist()
    pairs = sorted({(row["variant"], row["twin"]) for row in compared})
    named = sorted({arm for pair in pairs for arm in pair})
    scores = store.read("scores", study)
    scores = scores.filter(pc.is_in(scores["arm"], pa.array(named)))
    loss, cloze = (
        build_panel(scores.filter(pc.equal(scores["kind"], kind)), kind) for kind in ("bits_per_byte", "cloze")
    )
    seeds = loss.common_seeds(*named)
    metric, right = loss.deciding, cloze.metrics[0]
    answers = scores.filter(pc.equal(scores["kind"], "cloze")).sort_by(
        [(name, "ascending") for name in ("arm", "seed", "document", "item")]
    )
    given = answers["correct"].to_numpy().reshape(len(named), len(seeds), -1)
    return {
        "study": study,
        "seeds": seeds,
        "arms": len(named),
        "loss": {
            "seeds_nats": _seeds(np.stack([metric.figures(loss.rows(arm, seeds)) for arm in named])),
            "documents": len(metric.sizes),
            "tokens_quantiles": _quantiles(metric.sizes),
            **_documents(loss, pairs, seeds),
        },
        "accuracy": {
            "share_right": float(given.mean()),
            "seeds_disagree": float((given[:, 0] != given[:, 1]).mean()),
            "seeds": _seeds(given.mean(axis=2)),
            "documents": len(right.sizes),
            "items_quantiles": _quantiles(right.sizes),
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--study", required=True)
    options = parser.parse_args()
    print(json.dumps(measure(options.store, options.study), indent=1))
