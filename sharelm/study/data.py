"""`[data]`: the corpora, how they are split, and the tokenizer."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sharelm.study.node import Fraction, Name, Node, Unit


class Source(Node):
    """`[[data.source]]`: where documents come from."""

    uri: str = Field(
        min_length=1,
        description="`builtin:python`; a file or glob (txt, jsonl, parquet; txt and jsonl also as .gz, .xz, .zst or "
        ".bz2), relative to the study file; `s3://...`; or `hf:OWNER/NAME[/CONFIG][:SPLIT]`.",
    )
    domain: Name | None = Field(
        default=None,
        description="The kind of text; results are reported for each domain. Required for everything but "
        "`builtin:python`, of which it picks `prose` or `code` (not set: both).",
    )
    text_field: str = Field(
        default="text", description="The field of a JSON line, or the column of a table, that holds the text."
    )
    document_start: str | None = Field(
        default=None,
        description="A regular expression. A line of a txt file in which it is found begins a document. Not set: a "
        "txt file is one document.",
    )
    split: Literal["auto", "training", "validation"] = Field(
        default="auto",
        description="Where the documents go. `auto`: `data.validation_fraction` of them are held out, by hash.",
    )
    max_bytes: Annotated[int, Field(gt=0), Unit("bytes")] | None = Field(
        default=None, description="Use a sample of whole documents of at most this size. Not set: all of them."
    )

    @field_validator("document_start")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _domain_known(self) -> Source:
        if self.domain is None and self.uri != "builtin:python":
            raise ValueError('domain is missing: name the kind of text, for example domain = "books"')
        return self


class Data(Node):
    """`[data]`: the corpora, how they are split, and the tokenizer."""

    source: list[Source] = Field(min_length=1, description="One or more.")
    vocabulary: Annotated[int, Field(ge=257), Unit("tokens")] = Field(
        description="Entries of the tokenizer, exactly; the 256 bytes and the end-of-text token are among them."
    )
    tokenizer: str | None = Field(
        default=None,
        description="A `tokenizer.json` to use, relative to the study file. Not set: a byte-level BPE is trained on "
        "the training documents.",
    )
    validation_fraction: Fraction = Field(
        default=0.05, description="The part of the documents that is held out, of sources whose `split` is auto."
    )
    near_duplicate_similarity: Fraction = Field(
        default=0.8,
        description="Documents whose sets of word 5-grams have at least this Jaccard similarity go to the same split.",
    )
