"""What a study would be able to show, and what one more seed of it costs: for `sharelm plan`."""

from __future__ import annotations

from typing import Any

from cluster.show import columns
from sharelm.errors import InputError
from sharelm.formats import duration
from sharelm.study import Study, expand, timed_pairs


def power_of(study: Study, planned: dict[str, Any], store: str | None, pilot: str | None) -> dict[str, Any]:
    """The study's power to show a variant not worse, from a pilot in the store or else the prior of `[power]`.

    `planned` is what `plan_study` says of it: one more seed costs what its arms cost once. `pilot` names a finished
    study; left out, it is the study itself where the store has its report. Without any source, `source` is None and
    there is no figure but the cost of a seed. The level is that of the first claim of the family, the hardest that Holm
    asks for; later ones have more power. Losses and spreads are in nats a token.

    Raises `InputError` where `pilot` is named without a store, or has no comparison over two seeds.
    """
    asked, accuracy = study.power, study.kpi.accuracy
    pairs = expand(study).comparisons
    family = len(pairs) + len(timed_pairs(study))
    found: dict[str, Any] = {
        "source": None,
        "wanted": asked.wanted,
        "true_difference_nats": asked.true_difference_nats,
        "margin_nats": accuracy.loss_margin_nats,
        "seeds": len(study.study.seeds),
        "family": family,
        "one_more_seed": {
            figure: sum(arm[figure] for arm in planned["arms"])
            for figure in ("estimated_training_hours", "estimated_training_cost")
        },
        "rows": [],
    }
    if pilot is not None and store is None:
        raise InputError(f"--pilot = {pilot!r} is looked up in a store: give --store")
    source = (store and _pilot(store, pilot or study.name, named=pilot is not None)) or _prior(study)
    if source is None:
        return found
    from sharelm.statistics.power import Design, detectable, documents_needed, power, seeds_needed

    found["source"], documents, spreads = source
    arms = len({arm for pair in pairs for arm in (pair.variant, pair.twin)})
    design = Design(arms, len(study.study.seeds), documents, (1 - accuracy.confidence) / 2 / family)
    distance = accuracy.loss_margin_nats - asked.true_difference_nats
    found |= {"documents": documents, "confidence": 1 - 2 * design.level}
    for which, spread in spreads.items():
        row = {
            "comparison": which,
            "seed_spread_nats": spread.seeds,
            "document_spread_nats": spread.documents,
            "power": power(spread, design, distance),
            "detectable_nats": detectable(spread, design, asked.wanted),
            "seeds_needed": seeds_needed(spread, design, distance, asked.wanted),
            "documents_needed": documents_needed(spread, design, distance, asked.wanted),
        }
        found["rows"].append(row)
    return found


def _pilot(store: str, name: str, named: bool) -> tuple[str, int, dict[str, Any]] | None:
    """A finished study's spreads; None where it was not named and the store has none."""
    from cluster.evidence import newest_comparisons
    from sharelm.statistics.pilot import pilot_of

    rows = newest_comparisons(store, name, required=named)
    found = pilot_of(rows)
    if found is None:
        if named:
            raise InputError(f"study {name!r} in {store} compared no loss over two seeds: it is no pilot")
        return None
    return f"the seeds of study {name} in {store}", found.documents, {"middle": found.middle, "widest": found.widest}


def _prior(study: Study) -> tuple[str, int, dict[str, Any]] | None:
    asked = study.power
    if asked.seed_spread_nats is None or asked.document_spread_nats is None or asked.documents is None:
        return None
    from sharelm.statistics.power import Spread

    return "the prior of [power]", asked.documents, {"any": Spread(asked.seed_spread_nats, asked.document_spread_nats)}


def power_text(found: dict[str, Any], currency: str) -> str:
    """The same for a reader."""
    seed = found["one_more_seed"]
    cost = (
        f"One more seed of every arm: {duration(seed['estimated_training_hours'] * 3600)} of training, "
        f"{seed['estimated_training_cost']:,.4f} {currency}."
    )
    if found["source"] is None:
        return (
            "What the study can show is not known: no pilot with two seeds is in a --store, and [power] states no "
            f"prior.\n{cost}"
        )
    rows = [
        (
            row["comparison"],
            f"{row['seed_spread_nats']:.4g}",
            f"{row['document_spread_nats']:.4g}",
            f"{row['power']:.0%}",
            f"{row['detectable_nats']:.4f}",
            row["seeds_needed"] or "over 50",
            row["documents_needed"] or "more seeds",
        )
        for row in found["rows"]
    ]
    wanted = f"{found['wanted']:.0%}"
    heads = ("comparison", "seeds' spread", "documents' spread", "power", f"{wanted} from", "seeds", "or documents")
    one = "" if found["seeds"] > 1 else " With one seed the power is over documents only, whatever seeds do."
    return (
        f"Power to show a variant not worse whose true loss difference is {found['true_difference_nats']:g} nats, "
        f"margin {found['margin_nats']:g}, with {found['seeds']} seed(s) and {found['documents']:,} documents,\n"
        f"by {found['source']}; {found['confidence']:.2%} interval, the first claim of {found['family']}:\n"
        f"{columns(rows, heads)}\n"
        f'"{wanted} from" is the smallest difference in nats that is shown with that power: from zero to be better, '
        f"from the margin to be not worse.\nSeeds or documents are those that {wanted} takes, the other staying as "
        f"planned.{one}\n{cost}"
    )
