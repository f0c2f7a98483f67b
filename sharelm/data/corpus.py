"""A corpus as training and evaluation read it: rows of training tokens, the held-out documents, the tokenizer."""

from __future__ import annotations

from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from sharelm.data.shards import TokenRows
from sharelm.data.tokenizer import end_of_text, tokenizer_from
from sharelm.store import Manifest, Store

TOKENIZER_FILE = "tokenizer.json"
VALIDATION_FILE = "validation.parquet"
VALIDATION_SCHEMA = pa.schema(
    [
        ("digest", pa.string()),
        ("domain", pa.string()),
        ("text", pa.string()),
        ("bytes", pa.int64()),
        ("tokens", pa.list_(pa.int32())),
    ]
)


class Corpus:
    """A committed data step. Files are fetched when first asked for, and checked by the store."""

    def __init__(self, store: Store, manifest: Manifest):
        self.store = store
        self.manifest = manifest

    @cached_property
    def tokenizer_json(self) -> str:
        """The tokenizer as it is saved: JSON of the library tokenizers."""
        return self.store.read_bytes(self.manifest, TOKENIZER_FILE).decode()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; encode with `add_special_tokens=False`."""
        return tokenizer_from(self.tokenizer_json)

    @property
    def end_of_text(self) -> int:
        """The token that follows every training document."""
        return end_of_text(self.tokenizer)

    def training(self, context: int) -> TokenRows:
        """Rows of `context + 1` training tokens, memory-mapped."""
        shards = self.manifest.facts["shards"]
        return TokenRows.open([self.store.fetch(self.manifest, name) for name in shards], context)

    def validation(self) -> pa.Table:
        """The held-out documents by digest: digest, domain, text, its UTF-8 bytes, its tokens without end of text."""
        # Not pq.read_table of a Python file: its scan can outlive the call on a thread of Arrow's, which lets go of
        # the file while the interpreter ends, and that aborts the process.
        return pq.ParquetFile(pa.BufferReader(self.store.read_bytes(self.manifest, VALIDATION_FILE))).read()


def open_corpus(store: Store, manifest: Manifest) -> Corpus:
    """The corpus that `prepare` committed."""
    return Corpus(store, manifest)
