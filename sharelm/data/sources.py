"""From a `[[data.source]]` to its documents, and to a fingerprint that changes when they do."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from sharelm.data import builtin, files, hub
from sharelm.data.documents import Document, draw
from sharelm.errors import InputError
from sharelm.study.data import Source

_PYTHON = "builtin:python"


def _all_documents(source: Source, base: Path) -> Iterator[Document]:
    if source.uri.startswith("builtin:"):
        if source.uri != _PYTHON:
            raise InputError(f"data.source.uri = {source.uri!r} is not known; the only builtin is {_PYTHON!r}")
        for domain, text in builtin.documents(source.domain):
            yield Document(domain, text, source.split)
        return
    assert source.domain is not None
    texts = hub.texts(source, base) if source.uri.startswith("hf:") else files.texts(source, base)
    for text in texts:
        yield Document(source.domain, text, source.split)


def sample(documents: Iterable[Document], max_bytes: int) -> list[Document]:
    """Whole documents in the order of a draw, up to the first that no longer fits; the order of reading is irrelevant.

    A document larger than `max_bytes` is skipped. A larger `max_bytes` contains the sample of a smaller one.
    """
    kept: list[tuple[float, str, int, Document]] = []  # ascending; texts that differ in white space share a draw
    ties = count()
    total, cutoff = 0, (1.0, "")
    for document in documents:
        key = (draw(document.digest, "sample"), document.text)
        if document.bytes > max_bytes or key >= cutoff:
            continue
        insort(kept, (*key, next(ties), document))
        total += document.bytes
        while total > max_bytes:
            drawn, text, _, dropped = kept.pop()
            total -= dropped.bytes
            cutoff = drawn, text
    return [document for *_, document in kept]


def read_documents(source: Source, base: Path) -> Iterator[Document]:
    """The documents of a source; a relative path starts at `base`, the study file's folder.

    With `max_bytes`, each domain of the source gives an equal share of it.
    Raises `InputError`, one sentence, for whatever cannot be read as text.
    """
    if source.max_bytes is None:
        yield from _all_documents(source, base)
        return
    domains = builtin.DOMAINS if source.uri == _PYTHON and source.domain is None else (source.domain,)
    everything = list(_all_documents(source, base)) if len(domains) > 1 else _all_documents(source, base)
    for domain in domains:
        of_domain = (document for document in everything if document.domain == domain)
        taken = sample(of_domain, source.max_bytes // len(domains))
        if not taken:
            raise InputError(f"{source.uri}: max_bytes = {source.max_bytes} is less than any of its documents")
        yield from taken


def fingerprint(source: Source, base: Path) -> Any:
    """JSON values that change with the source's content, and not when the source is moved."""
    if source.uri.startswith("builtin:"):
        return ["builtin", builtin.fingerprint()]
    if source.uri.startswith("hf:"):
        return ["hf", hub.fingerprint(source.uri, base)]
    return sorted(file.fingerprint() for file in files.matching(source.uri, base))
