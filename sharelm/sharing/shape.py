"""The sizes of a decoder, and the tables of what one block of each kind holds."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

Kind = Literal["attention", "feed_forward"]
KINDS: tuple[Kind, ...] = ("attention", "feed_forward")


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder. Every arm is one shape and one `Sharing`."""

    vocabulary: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    context: int
    rope_theta: float = 10_000.0
    activation: str = "swiglu"  # or "gelu": two matrices, up and down

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    def matrices(self, kind: str) -> dict[str, tuple[int, int]]:
        """The matrices of one block of this kind, (outputs, inputs) by name."""
        if kind == "attention":
            queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
            return {
                "query": (queries, self.width),
                "key": (keys, self.width),
                "value": (keys, self.width),
                "output": (self.width, queries),
            }
        gate = {"gate": (self.feed_forward, self.width)} if self.activation == "swiglu" else {}
        return {**gate, "up": (self.feed_forward, self.width), "down": (self.width, self.feed_forward)}

    def norm_gains(self, kind: str) -> dict[str, int]:
        """The norms' gains of one block of this kind, their length by name."""
        if kind == "attention":
            return {"norm": self.width, "query_norm": self.head_width, "key_norm": self.head_width}
        return {"norm": self.width}

    def matrix_parameters(self, kind: str) -> int:
        """Weights in the matrices of one block of this kind."""
        return sum(prod(size) for size in self.matrices(kind).values())
