"""Byte-level BPE: trained on the training split, or given as a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sharelm.errors import InputError

END_OF_TEXT = "<|endoftext|>"


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
    """The tokenizer of this JSON; a document that spells out a special token gets the letters, not the token."""
    tokenizer = Tokenizer.from_str(text)
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
