"""McNemar's test: on how many items only one of two models is right, and whether chance explains it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats


@dataclass(frozen=True)
class Discordant:
    """Items that only the variant or only the twin has right, counted in every seed, and the exact p-value."""

    only_variant: int
    only_twin: int

    @property
    def p(self) -> float:
        """Two-sided, exact: the discordant items are tosses of a fair coin (McNemar, Psychometrika 12, 1947).

        Items of one document and one item in several seeds are taken as independent, which they are not.
        """
        tosses = self.only_variant + self.only_twin
        return float(stats.binomtest(self.only_variant, tosses).pvalue) if tosses else 1.0


def discordant(scores: pa.Table, variant: str, twin: str, seeds: list[int]) -> Discordant:
    """The discordant items of two arms over these seeds; `scores` holds the rows of one task.

    The trials were scored on the same items, each once, which `build_panel` has made sure of.
    """
    kept = scores.filter(pc.is_in(scores["seed"], pa.array(seeds, pa.int64())))
    order = [(name, "ascending") for name in ("seed", "document", "item")]
    right = []
    for arm in (variant, twin):
        rows = kept.filter(pc.equal(kept["arm"], arm)).sort_by(order)
        right.append(rows["correct"].to_numpy() > 0.5)
    ours, theirs = right
    return Discordant(int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours)))
