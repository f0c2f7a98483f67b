"""The scorer of a decoder: texts become tokens, windows and batches; a text's score rests on none of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from sharelm.data.tokenizer import end_of_text
from sharelm.errors import InputError
from sharelm.evaluation.scorer import Until
from sharelm.model import Decoder, generate


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


class DecoderScorer:
    """A `Scorer` over a decoder.

    Context and continuation are encoded apart, and end of text comes first: that is what training documents follow.
    """

    def __init__(self, model: Decoder, tokenizer: Tokenizer, tokens_per_batch: int):
        self.model, self.tokenizer, self.tokens_per_batch = model, tokenizer, tokens_per_batch
        self.end_of_text = end_of_text(tokenizer)
        self._tokens: dict[str, list[int]] = {}  # of every text so far: the choices of a question share their context

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        encoded = self.tokenizer.encode_batch_fast(new, add_special_tokens=False)
        self._tokens |= {text: found.ids for text, found in zip(new, encoded, strict=True)}
        return [self._tokens[text] for text in texts]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has as a continuation."""
        return [len(tokens) for tokens in self._encode(texts)]

    @torch.inference_mode()
    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each (context, continuation), nats of log probability, and whether each token was the first choice.

        Of a context that leaves no room for the continuation, the latest tokens are read.
        """
        contexts = self._encode([context for context, _ in requests])
        continuations = self._encode([continuation for _, continuation in requests])
        pairs = enumerate(zip(contexts, continuations, strict=True))
        length = self.model.shape.context
        found = [
            window for n, (context, text) in pairs for window in windows(n, [self.end_of_text, *context], text, length)
        ]
        nll, greedy = [0.0] * len(requests), [True] * len(requests)
        for batch in batches(found, self.tokens_per_batch):
            for window, value, first in zip(batch, *_batch_scores(self.model, batch), strict=True):
                nll[window.answer] += value
                greedy[window.answer] &= first
        return [(-value, first) for value, first in zip(nll, greedy, strict=True)]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """Nats of log probability of each whole text, its first token given end of text."""
        return [value for value, _ in self.loglikelihood([("", text) for text in texts])]

    def generate_until(self, requests: Sequence[tuple[str, Until]]) -> list[str]:
        """For each (context, until), what greedy decoding says after the context.

        Of a context that leaves no room for `max_gen_toks` tokens, the latest are read. Raises `InputError` where
        they leave room for none.
        """
        prompts = []
        for tokens, (_, options) in zip(self._encode([context for context, _ in requests]), requests, strict=True):
            room = self.model.shape.context - options["max_gen_toks"]
            if room < 1:
                raise InputError(
                    f"max_gen_toks = {options['max_gen_toks']} leaves no room for a prompt in the model's context of "
                    f"{self.model.shape.context}"
                )
            prompts.append([self.end_of_text, *tokens][-room:])
        said = [""] * len(requests)
        for batch in self._prompt_batches(prompts, [options["max_gen_toks"] for _, options in requests]):
            new_tokens = requests[batch[0]][1]["max_gen_toks"]
            for number, tokens in zip(
                batch, generate(self.model, [prompts[n] for n in batch], new_tokens), strict=True
            ):
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
        """What these tokens say before end of text and the first of these strings."""
        if self.end_of_text in tokens:
            tokens = tokens[: tokens.index(self.end_of_text)]
        text: str = self.tokenizer.decode(tokens)
        ends = [text.index(stop) for stop in until if stop in text]
        return text[: min(ends)] if ends else text
