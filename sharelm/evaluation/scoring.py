"""Scoring items with a model: one row an item, whatever else is in its batch or its shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from sharelm.evaluation.items import Item
from sharelm.model import Decoder
from sharelm.tables import TABLES

COLUMNS = ["domain", "document", "item", "nll_nats", "tokens", "bytes", "correct"]


@dataclass(frozen=True)
class Window:
    """Tokens of which the last `scored` are scored, each given those before it; `answer` says whose they are."""

    answer: int
    tokens: list[int]
    scored: int


def windows(number: int, history: list[int], answer: list[int], context: int) -> Iterator[Window]:
    """The windows that score every token of an answer once, none longer than a model of this context can read.

    An answer that fits keeps as much of its history as fits too, the latest. A longer one is cut as lm-eval does
    (`get_rolling_token_windows` with a context of 1): each window scores `context` tokens after the one before
    them, and the last, which has fewer to score, reaches back instead.
    """
    text = history + answer
    for start in range(len(history), len(text), context):
        end = min(start + context, len(text))
        yield Window(number, text[max(0, end - context - 1) : end], end - start)


def batches(found: list[Window], tokens_per_batch: int) -> Iterator[list[Window]]:
    """Windows of like length together, longest first: at most this many tokens with padding, or one window."""
    batch: list[Window] = []
    for window in sorted(found, key=lambda window: -len(window.tokens)):
        if batch and (len(batch) + 1) * (len(batch[0].tokens) - 1) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _batch_scores(model: Decoder, batch: list[Window]) -> tuple[list[float], list[bool]]:
    """For each window its summed nll in nats, and whether every scored token was the model's first choice."""
    inputs = np.zeros((len(batch), len(batch[0].tokens) - 1), dtype=np.int64)
    targets = np.full_like(inputs, -1)
    for row, window in enumerate(batch):
        last = len(window.tokens) - 1
        inputs[row, :last] = window.tokens[:-1]
        targets[row, last - window.scored : last] = window.tokens[-window.scored :]
    device = model.device
    wanted = torch.from_numpy(targets).to(device)
    scored = wanted >= 0
    logits = model.head(model.hidden(torch.from_numpy(inputs).to(device))[scored]).float()
    nll = torch.zeros(wanted.shape, dtype=torch.float64, device=device)
    nll[scored] = F.cross_entropy(logits, wanted[scored], reduction="none").double()
    wrong = torch.zeros_like(scored)
    wrong[scored] = logits.argmax(dim=-1) != wanted[scored]
    return nll.sum(dim=1).tolist(), (~wrong.any(dim=1)).tolist()


@torch.inference_mode()
def score(model: Decoder, items: list[Item], tokens_per_batch: int) -> pa.Table:
    """Rows of the table `scores` for these items, in their order, less the columns that name trial and task.

    `correct` is, for one answer, whether every token of it is the model's first choice; for several, whether the
    gold one has the lowest nll per byte (lm-eval's `acc_norm`, which divides by characters).
    """
    answers = [(item.history, answer) for item in items for answer in item.answers]
    found = [w for number, pair in enumerate(answers) for w in windows(number, *pair, model.shape.context)]
    nll, greedy = [0.0] * len(answers), [True] * len(answers)
    for batch in batches(found, tokens_per_batch):
        for window, value, first in zip(batch, *_batch_scores(model, batch), strict=True):
            nll[window.answer] += value
            greedy[window.answer] &= first
    rows, first_answer = [], 0
    for item in items:
        of_item = slice(first_answer, first_answer + len(item.answers))
        rows.append(_row(item, nll[of_item], greedy[of_item]))
        first_answer = of_item.stop
    return pa.Table.from_pylist(rows, schema=pa.schema([TABLES["scores"].field(name) for name in COLUMNS]))


def _row(item: Item, nll: list[float], greedy: list[bool]) -> dict[str, Any]:
    correct: bool | None = None
    if item.judged and len(nll) == 1:
        correct = greedy[0]
    elif item.judged:
        per_byte = [value / size for value, size in zip(nll, item.answer_bytes, strict=True)]
        correct = per_byte.index(min(per_byte)) == item.gold
    return {
        "domain": item.domain,
        "document": item.document,
        "item": item.item,
        "nll_nats": nll[item.gold],
        "tokens": len(item.answers[item.gold]),
        "bytes": item.answer_bytes[item.gold],
        "correct": None if correct is None else float(correct),
    }
