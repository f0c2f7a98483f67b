"""A document, the digest that names it, and the hash-based draws that put it into a split or a sample."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["auto", "training", "validation"]


def text_digest(text: str) -> str:
    """sha256 of the text in Unicode NFC, each run of white space as one blank; equal for texts that are the same."""
    return hashlib.sha256(" ".join(unicodedata.normalize("NFC", text).split()).encode()).hexdigest()


def draw(digest: str, purpose: str) -> float:
    """A number in [0, 1) that depends only on the document and the purpose."""
    bits = hashlib.sha256(f"{purpose} {digest}".encode()).digest()[:6]  # 48 bits: exact in a float
    return int.from_bytes(bits, "big") / 2**48


@dataclass(frozen=True)
class Document:
    """One document of one domain; `split` is the setting of its source."""

    domain: str
    text: str
    split: Split = "auto"
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", text_digest(self.text))

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the text."""
        return len(self.text.encode())
