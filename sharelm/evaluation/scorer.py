"""What scores texts: lm-evaluation-harness's three requests, and how many tokens a text is scored as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypedDict


class Until(TypedDict):
    """When a generated text ends: before the first of these strings, at end of text, or after so many tokens."""

    until: Sequence[str]
    max_gen_toks: int


class Scorer(Protocol):
    """A model with a tokenizer of its own. Every call answers in the order of its requests."""

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each (context, continuation), nats of log probability, and whether greedy decoding would give it."""

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """Nats of log probability of each whole text, its first token given the end of another text."""

    def generate_until(self, requests: Sequence[tuple[str, Until]]) -> list[str]:
        """For each (context, until), what greedy decoding says after the context."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has as a continuation."""
