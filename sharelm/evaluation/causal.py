"""The scorer of a causal model: texts become windows and batches; a text's score rests on none of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sharelm.errors import InputError
from sharelm.evaluation.encoding import Encoding
from sharelm.evaluation.scorer import Until


class CausalModel(Protocol):
    """A decoder that reads at most `context` tokens at once."""

    context: int
    device: torch.device

    def hidden(self, tokens: Tensor) -> Tensor:
        """Final hidden states [B, T, width] of `tokens` [B, T]."""

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., width]."""

    @property
    def branches(self) -> bool:
        """Whether `branched` gives what reading every text whole gives."""

    def branched(self, contexts: Tensor, lengths: list[int], rows: list[int], tokens: Tensor) -> Tensor:
        """Final hidden states [R, 1 + T, width] of a context's last token and of the tokens that follow it.

        `contexts` [G, C] are read once, each up to its length; `tokens` [R, T] follow the contexts of these rows.
        """

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """The `new_tokens` tokens that greedily follow each prompt."""


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


@dataclass(frozen=True)
class Branching:
    """A context that several requests have; their answers, and whose they are."""

    context: list[int]
    numbers: list[int]
    answers: list[list[int]]

    @property
    def longest(self) -> int:
        """Tokens that are read of the longest answer."""
        return max(map(len, self.answers)) - 1


Work = TypeVar("Work", Window, Branching)
Size = tuple[int, int, int]  # of a piece of work: its rows, and how many tokens of context and of an answer are read


def batches(found: list[Work], size: Callable[[Work], Size], most: int, context: int) -> Iterator[list[Work]]:
    """Work of like length together, longest first: at most this many tokens with padding, or one piece of work.

    No row of a batch, its padding included, is longer than the model's `context`.
    """
    batch: list[Work] = []
    rows = before = after = 0
    for work in sorted(found, key=lambda work: -sum(size(work)[1:])):
        count, *lengths = size(work)
        width = max(before, lengths[0]) + max(after, lengths[1])
        if batch and ((rows + count) * width > most or width > context):
            yield batch
            batch, rows, before, after = [], 0, 0, 0
        batch.append(work)
        rows, before, after = rows + count, max(before, lengths[0]), max(after, lengths[1])
    if batch:
        yield batch


def _padded(rows: list[list[int]], width: int, value: int = 0) -> Tensor:
    filled = np.full((len(rows), width), value, dtype=np.int64)
    for at, tokens in enumerate(rows):
        filled[at, : len(tokens)] = tokens
    return torch.from_numpy(filled)


Scores = tuple[list[float], list[bool]]  # nll in nats; whether every scored token was the model's first choice


def _scores(model: CausalModel, hidden: Tensor, targets: Tensor) -> Scores:
    """Of each row; `targets` [B, T] are the tokens that follow `hidden` [B, T, width], -1 where none is scored."""
    wanted = targets.to(hidden.device)
    scored = wanted >= 0
    logits = model.head(hidden[scored]).float()
    nll = torch.zeros(wanted.shape, dtype=torch.float64, device=hidden.device)
    nll[scored] = F.cross_entropy(logits, wanted[scored], reduction="none").double()
    wrong = torch.zeros_like(scored)
    wrong[scored] = logits.argmax(dim=-1) != wanted[scored]
    return nll.sum(dim=1).tolist(), (~wrong.any(dim=1)).tolist()


def _window_scores(model: CausalModel, batch: list[Window]) -> Scores:
    width = max(len(window.tokens) for window in batch) - 1
    targets = [[-1] * (len(window.tokens) - 1 - window.scored) + window.tokens[-window.scored :] for window in batch]
    tokens = _padded([window.tokens[:-1] for window in batch], width).to(model.device)
    return _scores(model, model.hidden(tokens), _padded(targets, width, -1))


def _branch_scores(model: CausalModel, batch: list[Branching]) -> Scores:
    """Of each answer, those of the first context first."""
    answers = [answer for one in batch for answer in one.answers]
    rows = [row for row, one in enumerate(batch) for _ in one.answers]
    lengths = [len(one.context) for one in batch]
    contexts = _padded([one.context for one in batch], max(lengths)).to(model.device)
    width = max(map(len, answers))
    tokens = _padded([answer[:-1] for answer in answers], width - 1).to(model.device)
    return _scores(model, model.branched(contexts, lengths, rows, tokens), _padded(answers, width, -1))


class CausalScorer:
    """A `Scorer` over a causal model and its tokenizer."""

    def __init__(self, model: CausalModel, encoding: Encoding, tokens_per_batch: int):
        self.model, self.encoding, self.tokens_per_batch = model, encoding, tokens_per_batch

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has by itself."""
        return [len(tokens) for tokens in self.encoding.texts(texts)]

    @torch.inference_mode()
    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each (context, continuation), nats of log probability, and whether each token was the first choice.

        Of a context that leaves no room for the continuation, the latest tokens are read.
        """
        pairs = self.encoding.pairs(requests)
        together = self._branchings(pairs)
        elsewhere = {number for one in together for number in one.numbers}
        alone = [
            window
            for number, (context, answer) in enumerate(pairs)
            if number not in elsewhere
            for window in windows(number, context, answer, self.model.context)
        ]
        nll, greedy = [0.0] * len(requests), [True] * len(requests)
        most, context = self.tokens_per_batch, self.model.context
        for batch in batches(alone, lambda window: (1, len(window.tokens) - 1, 0), most, context):
            for window, value, first in zip(batch, *_window_scores(self.model, batch), strict=True):
                nll[window.answer] += value
                greedy[window.answer] &= first
        for group in batches(together, lambda one: (len(one.answers), len(one.context), one.longest), most, context):
            numbers = [number for one in group for number in one.numbers]
            for number, value, first in zip(numbers, *_branch_scores(self.model, group), strict=True):
                nll[number], greedy[number] = value, first
        return [(-value, first) for value, first in zip(nll, greedy, strict=True)]

    def _branchings(self, pairs: list[tuple[list[int], list[int]]]) -> list[Branching]:
        """The requests whose context another has too and leaves room for: such a context is read once."""
        if not self.model.branches:
            return []
        found: dict[tuple[int, ...], list[int]] = {}
        for number, (context, answer) in enumerate(pairs):
            if answer and len(context) + len(answer) - 1 <= self.model.context:
                found.setdefault(tuple(context), []).append(number)
        return [
            Branching(list(context), numbers, [pairs[number][1] for number in numbers])
            for context, numbers in found.items()
            if len(numbers) > 1 and len(context) > 1
        ]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """Nats of log probability of each whole text, its first token given the first token of every context."""
        return [value for value, _ in self.loglikelihood([("", text) for text in texts])]

    def generate_until(self, requests: Sequence[tuple[str, Until]]) -> list[str]:
        """For each (context, until), what greedy decoding says after the context.

        Of a context that leaves no room for `max_gen_toks` tokens, the latest are read. Raises `InputError` where
        they leave room for none.
        """
        prompts = []
        contexts = self.encoding.contexts([context for context, _ in requests])
        for tokens, (_, options) in zip(contexts, requests, strict=True):
            room = self.model.context - options["max_gen_toks"]
            if room < 1:
                raise InputError(
                    f"max_gen_toks = {options['max_gen_toks']} leaves no room for a prompt in the model's context of "
                    f"{self.model.context}"
                )
            prompts.append(tokens[-room:])
        said = [""] * len(requests)
        for batch in self._prompt_batches(prompts, [options["max_gen_toks"] for _, options in requests]):
            new_tokens = requests[batch[0]][1]["max_gen_toks"]
            found = self.model.generate([prompts[n] for n in batch], new_tokens)
            for number, tokens in zip(batch, found, strict=True):
                said[number] = self._text(tokens, requests[number][1]["until"])
        return said

    def _prompt_batches(self, prompts: list[list[int]], new_tokens: list[int]) -> Iterator[list[int]]:
        """Numbers of prompts that are generated for together: as many new tokens, like lengths, longest first."""
        batch: list[int] = []
        for number in sorted(range(len(prompts)), key=lambda n: (-new_tokens[n], -len(prompts[n]))):
            if batch:
                first = batch[0]
                tokens = (len(batch) + 1) * (len(prompts[first]) + new_tokens[first])
                if new_tokens[number] != new_tokens[first] or tokens > self.tokens_per_batch:
                    yield batch
                    batch = []
            batch.append(number)
        if batch:
            yield batch

    def _text(self, tokens: list[int], until: Sequence[str]) -> str:
        """What these tokens say before the end of the text and the first of these strings."""
        if self.encoding.end in tokens:
            tokens = tokens[: tokens.index(self.encoding.end)]
        text = self.encoding.text(tokens)
        ends = [text.index(stop) for stop in until if stop in text]
        return text[: min(ends)] if ends else text
