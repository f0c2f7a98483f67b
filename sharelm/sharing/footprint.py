"""Closed forms: what a shape and a sharing store, compute and cache. Tests prove them on the built model.

FLOPs count a multiply-add as two and follow PaLM's convention (Chowdhery et al., arXiv 2204.02311, appendix B):
matrix products of every materialised weight, and attention scores and values over the whole context without
the causal half; norms, softmax, rotary and activation are left out. Training is three forward passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from sharelm.sharing.schedules import Sharing


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

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def attention_matrices(self) -> int:
        """Weights in one attention block's matrices: query, key, value, output."""
        return 2 * self.width * self.head_width * (self.heads + self.kv_heads)

    @property
    def attention_parameters(self) -> int:
        """Parameters of one attention block: matrices, input norm, query norm, key norm."""
        return self.attention_matrices + self.width + 2 * self.head_width

    @property
    def feed_forward_matrices(self) -> int:
        """Weights in one feed-forward block's matrices: gate, up, down (SwiGLU)."""
        return 3 * self.width * self.feed_forward

    @property
    def feed_forward_parameters(self) -> int:
        """Parameters of one feed-forward block: matrices and input norm."""
        return self.feed_forward_matrices + self.width

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the token embedding, which is also the output head (tied)."""
        return self.vocabulary * self.width


@dataclass(frozen=True)
class Footprint:
    """What one arm stores, computes and caches; parameters are counts, FLOPs are per token."""

    stored_parameters: int
    materialised_parameters: int
    embedding_parameters: int
    training_flops_per_token: int
    kv_elements_per_token: int
    _matrix_weights: int
    _head_weights: int
    _score_flops_per_position: int

    def prefill_flops_per_token(self, prompt: int) -> float:
        """FLOPs per prompt token of a prefill that needs logits for the last position only."""
        return 2 * self._matrix_weights + self._score_flops_per_position * prompt + 2 * self._head_weights / prompt

    def decode_flops_per_token(self, context: int) -> int:
        """FLOPs of one generated token that attends to `context` positions (itself included)."""
        return 2 * (self._matrix_weights + self._head_weights) + self._score_flops_per_position * context

    def kv_bytes_per_token(self, bytes_per_element: int) -> int:
        """Bytes of key-value cache a token takes over all depths: every loop keeps its own cache."""
        return self.kv_elements_per_token * bytes_per_element

    def weight_bytes(self, bytes_per_element: int) -> int:
        """Bytes of the stored weights at this precision."""
        return self.stored_parameters * bytes_per_element

    def checkpoint_bytes(self) -> int:
        """Bytes of a resumable checkpoint: fp32 weights and AdamW's two fp32 moments."""
        return self.stored_parameters * 12


def footprint(shape: ModelShape, sharing: Sharing) -> Footprint:
    """The closed-form footprint of this shape under this sharing."""
    depth = sharing.depth
    rest = shape.embedding_parameters + shape.width  # the embedding, tied to the head, and the final norm
    matrices = depth * (shape.attention_matrices + shape.feed_forward_matrices)
    score_flops = 4 * depth * shape.heads * shape.head_width
    forward = 2 * (matrices + shape.embedding_parameters) + score_flops * shape.context
    return Footprint(
        stored_parameters=sharing.attention_blocks * shape.attention_parameters
        + sharing.feed_forward_blocks * shape.feed_forward_parameters
        + rest,
        materialised_parameters=depth * (shape.attention_parameters + shape.feed_forward_parameters) + rest,
        embedding_parameters=shape.embedding_parameters,
        training_flops_per_token=3 * forward,
        kv_elements_per_token=2 * depth * shape.kv_heads * shape.head_width,
        _matrix_weights=matrices,
        _head_weights=shape.embedding_parameters,
        _score_flops_per_position=score_flops,
    )
