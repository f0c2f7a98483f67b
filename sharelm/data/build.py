"""The data step: sources -> splits -> tokenizer -> token shards and held-out documents, committed under one digest."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sharelm.data.corpus import TOKENIZER_FILE, VALIDATION_FILE, VALIDATION_SCHEMA
from sharelm.data.documents import Document, draw
from sharelm.data.shards import SHARD_TOKENS, write_shards
from sharelm.data.sources import fingerprint, read_documents
from sharelm.data.split import SplitDocuments, split_documents
from sharelm.data.tokenizer import encoded, end_of_text, read_tokenizer, tokenizer_from, train_tokenizer
from sharelm.data.workers import spread, workers
from sharelm.digest import code_digest, digest
from sharelm.errors import InputError
from sharelm.store import Manifest, Store
from sharelm.study.data import Data

Tokens = NDArray[np.unsignedinteger]


def _tokenizer_path(data: Data, base: Path) -> Path | None:
    return None if data.tokenizer is None else base / Path(data.tokenizer).expanduser()


def data_spec(data: Data, context: int, base: Path) -> dict[str, Any]:
    """The spec whose digest names the data step: settings, a fingerprint of each source's content, the code; no path.

    Reads every local file once to hash it, and asks S3 and the hub for ETags and revisions.
    Raises `InputError` where a source is not there.
    """
    sources = [{**source.model_dump(exclude={"uri"}), "content": fingerprint(source, base)} for source in data.source]
    path = _tokenizer_path(data, base)
    if path is not None:
        read_tokenizer(path, data.vocabulary)
    return {
        **data.model_dump(exclude={"source", "tokenizer"}),
        "sources": sorted(sources, key=lambda source: json.dumps(source, sort_keys=True)),
        "tokenizer": None if path is None else hashlib.sha256(path.read_bytes()).hexdigest(),
        "context": context,
        "code": code_digest("sharelm.data.build:prepare"),
    }


def _split(data: Data, documents: list[Document], pool: Executor | None) -> SplitDocuments:
    split = split_documents(documents, data.validation_fraction, data.near_duplicate_similarity, pool)
    for side, others in (("training", split.validation), ("validation", split.training)):
        if not getattr(split, side):
            raise InputError(
                f"no document is left for {side}: there are {len(others)} that differ, and data.validation_fraction = "
                f"{data.validation_fraction}; give more documents (for a txt file, document_start says where one "
                f"begins) or a source with split = {side!r}"
            )
    return split


def _encoded(
    saved: str, vocabulary: int, documents: Sequence[Document], pool: Executor | None
) -> Iterator[tuple[Document, Tokens]]:
    texts = (document.text for document in documents)
    return zip(documents, spread(partial(encoded, saved, vocabulary), texts, pool), strict=True)


class _Tally:
    """Counts of documents, bytes and tokens for each domain and split."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, Counter[str]]] = {}

    def counted(self, split: str, encoded: Iterable[tuple[Document, Tokens]]) -> Iterator[tuple[Document, Tokens]]:
        for document, tokens in encoded:
            splits = self.counts.setdefault(document.domain, {"training": Counter(), "validation": Counter()})
            splits[split].update(documents=1, bytes=document.bytes, tokens=len(tokens))
            yield document, tokens

    def total(self, what: str) -> int:
        return sum(counts[what] for splits in self.counts.values() for counts in splits.values())

    def facts(self) -> dict[str, dict[str, dict[str, int]]]:
        return {
            domain: {
                split: {what: counts[what] for what in ("documents", "bytes", "tokens")}
                for split, counts in splits.items()
            }
            for domain, splits in sorted(self.counts.items())
        }


def _validation_file(tokenizer: Tokenizer, encoded: Iterable[tuple[Document, Tokens]]) -> bytes:
    rows = []
    for document, array in encoded:
        tokens = array.tolist()
        if tokenizer.decode(tokens, skip_special_tokens=False) != document.text:
            raise InputError(
                f"data.tokenizer does not give back the text of validation document {document.digest[:12]} "
                f"({document.text[:40]!r}...); bits per byte need one that loses nothing, such as byte-level BPE"
            )
        rows.append(
            {
                "digest": document.digest,
                "domain": document.domain,
                "text": document.text,
                "bytes": document.bytes,
                "tokens": tokens,
            }
        )
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, VALIDATION_SCHEMA), file, compression="zstd")
    return file.getvalue()


def _built(data: Data, base: Path, folder: Path) -> tuple[Mapping[str, bytes | Path], dict[str, Any]]:
    """The files of the step by name, and its facts."""
    documents = [document for source in data.source for document in read_documents(source, base)]
    with workers(sum(len(document.text) for document in documents)) as pool:
        return _built_of(data, base, documents, folder, pool)


def _built_of(
    data: Data, base: Path, documents: list[Document], folder: Path, pool: Executor | None
) -> tuple[Mapping[str, bytes | Path], dict[str, Any]]:
    split = _split(data, documents, pool)
    training = sorted(split.training, key=lambda document: (draw(document.digest, "order"), document.digest))
    path = _tokenizer_path(data, base)
    if path is None:
        trained = train_tokenizer((document.text for document in split.training), data.vocabulary)
        tokenizer = tokenizer_from(trained.to_str())
    else:
        tokenizer = read_tokenizer(path, data.vocabulary)
    saved = tokenizer.to_str()
    tally = _Tally()
    held_out = _encoded(saved, data.vocabulary, split.validation, pool)
    validation = _validation_file(tokenizer, tally.counted("validation", held_out))
    trained_on = _encoded(saved, data.vocabulary, training, pool)
    shards = write_shards(
        (tokens for _, tokens in tally.counted("training", trained_on)),
        end_of_text(tokenizer),
        data.vocabulary,
        folder,
        SHARD_TOKENS,
    )
    domains = tally.facts()
    facts = {
        "training_tokens": sum(each["training"]["tokens"] + each["training"]["documents"] for each in domains.values()),
        "validation_tokens": sum(each["validation"]["tokens"] for each in domains.values()),
        "bytes_per_token": tally.total("bytes") / tally.total("tokens"),
        "domains": domains,
        "exact_duplicates_dropped": split.exact_duplicates_dropped,
        "near_duplicates_dropped": split.near_duplicates_dropped,
        "near_duplicate_clusters": split.near_duplicate_clusters,
        "near_duplicate_documents": split.near_duplicate_documents,
        "tokenizer_sha256": hashlib.sha256(saved.encode()).hexdigest(),
        "shards": [path.name for path in shards],
    }
    files: dict[str, bytes | Path] = {
        TOKENIZER_FILE: saved.encode(),
        VALIDATION_FILE: validation,
        **{path.name: path for path in shards},
    }
    return files, facts


def prepare(data: Data, context: int, base: Path, store: Store, study: str) -> Manifest:
    """The manifest of the data step. The step is built and committed unless an equal one was committed before.

    `facts`: `training_tokens` (an end of text after each document included), `validation_tokens` (without),
    `bytes_per_token` over both splits, `domains` (documents, bytes and tokens of each domain's splits), what was
    dropped as a duplicate and held together as near-duplicates, `tokenizer_sha256`, and the `shards` in order.
    All documents are held in memory while the step is built.

    Raises `InputError`, one sentence, before anything is committed.
    """
    step = digest(data_spec(data, context, base))
    done = store.find("data", study, step)
    if done is not None:
        return done
    with tempfile.TemporaryDirectory(prefix="sharelm-data-") as folder:
        files, facts = _built(data, base, Path(folder))
        if facts["training_tokens"] <= context:
            raise InputError(
                f"the training text is {facts['training_tokens']} tokens, shorter than one context "
                f"(model.context = {context}) and the token after it"
            )
        return store.commit("data", study, step, files, facts=facts)
