"""Texts as tokens of a model's own tokenizer: a context with its continuation as lm-evaluation-harness encodes them."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer


class Encoding:
    """A tokenizer and what precedes every text.

    Args:
        tokenizer: the model's own.
        first: the token that stands before an empty context.
        end: the token that ends what is generated.
        special_tokens: whether the tokenizer itself adds special tokens to a context, as Hugging Face's do; where it
            does not, `first` stands before every context.
    """

    def __init__(self, tokenizer: Tokenizer, first: int, end: int, special_tokens: bool) -> None:
        self._tokenizer, self._first, self.end, self._special_tokens = tokenizer, first, end, special_tokens

    def texts(self, texts: Sequence[str], special_tokens: bool = False) -> list[list[int]]:
        """The tokens of each text by itself."""
        distinct = list(dict.fromkeys(texts))
        found = self._tokenizer.encode_batch_fast(distinct, add_special_tokens=special_tokens)
        tokens = {text: encoded.ids for text, encoded in zip(distinct, found, strict=True)}
        return [tokens[text] for text in texts]

    def contexts(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each context, one at least."""
        return [self._after_start(tokens) for tokens in self.texts(texts, self._special_tokens)]

    def pairs(self, requests: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """The tokens of each (context, continuation).

        As lm-eval's `TemplateLM._encode_pair`: blanks that end a context belong to the continuation, and both are
        encoded as one text, which is cut after as many tokens as the context has alone. So a token may span the border
        as it would in running text.
        """
        moved = []
        for context, continuation in requests:
            stripped = context.rstrip()
            moved.append((stripped, context[len(stripped) :] + continuation))
        alone = self.texts([context for context, _ in moved], self._special_tokens)
        wholes = self.texts([context + continuation for context, continuation in moved], self._special_tokens)
        return [
            (self._after_start(context), whole[len(context) :]) for context, whole in zip(alone, wholes, strict=True)
        ]

    def _after_start(self, context: list[int]) -> list[int]:
        """A context's tokens, one at least, after what precedes every text."""
        start = [] if self._special_tokens else [self._first]
        return start + context or [self._first]

    def text(self, tokens: list[int]) -> str:
        """What these tokens say."""
        said: str = self._tokenizer.decode(tokens)
        return said
