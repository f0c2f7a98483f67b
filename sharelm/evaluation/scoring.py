"""Scoring items with any scorer: one row an item, in the columns of the table `scores`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from sharelm.evaluation.harness import harness_rows
from sharelm.evaluation.items import Item, Rule
from sharelm.evaluation.scorer import Scorer
from sharelm.tables import TABLES

COLUMNS = ["domain", "document", "item", "nll_nats", "tokens", "bytes", "correct"]
COLUMNS += ["document_sha256", "prompt_sha256", "metrics_json"]  # of tasks of lm-evaluation-harness


def score(scorer: Scorer, items: list[Item]) -> pa.Table:
    """Rows of the table `scores` for these items, in their order, less the columns that name trial and task."""
    rows: dict[int, dict[str, Any]] = {}
    for rule in dict.fromkeys(item.rule for item in items):
        numbers = [number for number, item in enumerate(items) if item.rule == rule]
        rows |= zip(numbers, RULES[rule](scorer, [items[number] for number in numbers]), strict=True)
    schema = pa.schema([TABLES["scores"].field(name) for name in COLUMNS])
    return pa.Table.from_pylist([rows[number] for number in range(len(items))], schema=schema)


def _rolling(scorer: Scorer, items: list[Item]) -> list[dict[str, Any]]:
    """The likelihood of a whole text; there is nothing to be right about."""
    texts = [item.answers[0] for item in items]
    found = zip(items, scorer.loglikelihood_rolling(texts), scorer.count_tokens(texts), strict=True)
    return [_row(item, -value, tokens, item.answer_bytes[0], None) for item, value, tokens in found]


def _likelihood(scorer: Scorer, items: list[Item]) -> list[dict[str, Any]]:
    """The likelihood of the gold answer.

    One answer is right if it is the model's first choice token by token; of several, the gold one is if it has the
    lowest nll per byte (lm-eval's `acc_norm`, which divides by characters).
    """
    values = iter(scorer.loglikelihood([(item.context, answer) for item in items for answer in item.answers]))
    counts = scorer.count_tokens([item.answers[item.gold] for item in items])
    rows = []
    for item, tokens in zip(items, counts, strict=True):
        found = [next(values) for _ in item.answers]
        per_byte = [-value / size for (value, _), size in zip(found, item.answer_bytes, strict=True)]
        right = found[0][1] if len(found) == 1 else per_byte.index(min(per_byte)) == item.gold
        rows.append(_row(item, -found[item.gold][0], tokens, item.answer_bytes[item.gold], right))
    return rows


def _generation(scorer: Scorer, items: list[Item]) -> list[dict[str, Any]]:
    """Whether what the model says is one of the accepted answers, blanks around both left out; it has no nll."""
    texts = scorer.generate_until(
        [(item.context, {"until": item.stop, "max_gen_toks": item.max_new_tokens}) for item in items]
    )
    return [
        _row(item, None, tokens, len(text.encode()), text.strip() in {answer.strip() for answer in item.accepted})
        for item, text, tokens in zip(items, texts, scorer.count_tokens(texts), strict=True)
    ]


def _row(item: Item, nll: float | None, tokens: int, size: int, right: bool | None) -> dict[str, Any]:
    return {
        "domain": item.domain,
        "document": item.document,
        "item": item.item,
        "nll_nats": nll,
        "tokens": tokens,
        "bytes": size,
        "correct": None if right is None else float(right),
    }


RULES: dict[Rule, Callable[[Scorer, list[Item]], list[dict[str, Any]]]] = {
    "rolling": _rolling,
    "likelihood": _likelihood,
    "generation": _generation,
    "harness": harness_rows,
}
