"""How far figures moved in a pilot: the spreads of a finished study's comparisons, for the next one to reckon with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sharelm.metrics import DECIDING
from sharelm.statistics.compare import ALL
from sharelm.statistics.power import Spread
from sharelm.tables.rows import ComparisonRow


@dataclass(frozen=True)
class Pilot:
    """The spreads of two comparisons of a pilot's losses, by their documents' error, and how many documents it had."""

    middle: Spread
    widest: Spread
    documents: int


def pilot_of(rows: Sequence[ComparisonRow]) -> Pilot | None:
    """The spreads of these comparisons; None where no loss was compared over two seeds and two documents or more.

    The least of the errors over seeds is the one that is pooled over arms: a comparison whose own is larger has that.
    """
    spreads, seeds, documents = [], [], 0
    for row in rows:
        if (row.metric, row.domain) != (DECIDING.name, ALL):
            continue
        if row.standard_error_seeds is None or row.standard_error_documents is None:
            continue
        seeds.append(row.standard_error_seeds * math.sqrt(row.seeds / 2))
        documents = row.documents
        rests_on = row.degrees_of_freedom_documents or row.documents - 1  # null before schema 6
        spreads.append((row.standard_error_documents * math.sqrt(row.documents), rests_on / row.documents))
    if not spreads:
        return None
    spreads.sort()
    middle, widest = (Spread(min(seeds), *spreads[at]) for at in (len(spreads) // 2, -1))
    return Pilot(middle, widest, documents)
