"""Byte-level BPE: trained on the training split, or given as a file."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sharelm.data.shards import token_type
from sharelm.errors import InputError

END_OF_TEXT = "<|endoftext|>"
_BLANK = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's White_Space
PIECE = re.compile(  # ends with letters before what is none, or before a blank
    rf"[{_BLANK}]*[^{_BLANK}a-zA-Z]*[a-zA-Z]++(?=[{_BLANK}!-@\[-`{{-~]|\Z)|[{_BLANK}]*[^{_BLANK}]+|[{_BLANK}]+"
)
_MOST_PIECES = 1 << 19  # remembered: about 100 MB


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A tokenizer of exactly `vocabulary` entries: 256 bytes, merges of pairs seen at least twice, end of text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    reached = tokenizer.get_vocab_size()
    if reached != vocabulary:
        raise InputError(f"data.vocabulary = {vocabulary} cannot be reached: the training text gives {reached} entries")
    return tokenizer


def read_tokenizer(path: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer in this file, checked against `data.vocabulary`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data.tokenizer: {path} cannot be read: {getattr(error, 'strerror', error)}") from error
    try:
        tokenizer = tokenizer_from(text)
    except Exception as error:  # `tokenizers` raises a plain Exception
        raise InputError(f"data.tokenizer: {path} is not a tokenizer.json: {error}") from error
    size = tokenizer.get_vocab_size()
    if size != vocabulary:
        raise InputError(f"data.tokenizer: {path} has {size} entries but data.vocabulary = {vocabulary}")
    if END_OF_TEXT not in tokenizer.get_vocab():
        raise InputError(f"data.tokenizer: {path} has no token {END_OF_TEXT!r} to end a document with")
    return tokenizer


def end_of_text(tokenizer: Tokenizer) -> int:
    """The token that ends a document."""
    return int(tokenizer.get_vocab()[END_OF_TEXT])


def tokenizer_from(text: str) -> Tokenizer:
    """The tokenizer of this JSON; the text of a special token in a document is encoded as letters."""
    tokenizer = Tokenizer.from_str(text)
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class Encoder:
    """Encodes texts in pieces, with exactly the tokens that the tokenizer gives for each whole text.

    Byte-level BPE merges only inside GPT-2's pre-tokens. A pre-token never continues from another character into a
    blank, nor from a letter into another kind of character. So texts are cut at such places, and each distinct piece
    is encoded once. A tokenizer of another kind encodes whole texts.
    """

    def __init__(self, saved: str):
        self.tokenizer = tokenizer_from(saved)
        self.by_piece = _joins_nothing_to_a_blank(json.loads(saved))
        self.known: dict[str, bytes] = {}

    def encode(self, text: str) -> NDArray[np.uint32]:
        """The tokens of one text."""
        if not self.by_piece:
            return np.array(self._encode([text])[0], np.uint32)
        pieces = PIECE.findall(text)
        if len(self.known) > _MOST_PIECES:
            self.known.clear()
        new = list(set(pieces).difference(self.known))
        self.known.update(zip(new, (array("I", tokens).tobytes() for tokens in self._encode(new)), strict=True))
        return np.frombuffer(b"".join(map(self.known.__getitem__, pieces)), np.uint32)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [found.ids for found in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _joins_nothing_to_a_blank(form: dict[str, Any]) -> bool:
    """Whether the tokenizer of this JSON is byte-level BPE over GPT-2's pre-tokens and nothing else."""
    before, model = form["pre_tokenizer"] or {}, form["model"]
    return (
        before.get("type") == "ByteLevel"
        and before["use_regex"]
        and not before["add_prefix_space"]
        and form["normalizer"] is None
        and model["type"] == "BPE"
        and not model["dropout"]
        and all(token["special"] for token in form["added_tokens"])  # which text never gives
    )


_encoder = lru_cache(maxsize=1)(Encoder)


def encoded(saved: str, vocabulary: int, texts: list[str]) -> list[NDArray[np.unsignedinteger]]:
    """The tokens of each text by the tokenizer of this JSON, in the smallest type that holds them all."""
    encoder = _encoder(saved)
    return [encoder.encode(text).astype(token_type(vocabulary)) for text in texts]
