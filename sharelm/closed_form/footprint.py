"""What a shape and a sharing store, compute and cache. Tests prove it on the built model.

FLOPs count a multiply-add as two and follow PaLM's convention (Chowdhery et al., arXiv 2204.02311, appendix B):
matrix products of every materialised weight, and attention scores and values over the whole context without
the causal half; norms, softmax, rotary, activation and other work by element are left out. Training is three forward
passes. Deltas and atoms are merged into their matrices once a pass (training, scoring), which costs the same
whatever the number of tokens; in decoding low-rank deltas are applied to the activations instead, so that no copy of
a shared matrix is held, and atoms are merged once a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from sharelm.sharing.checks import check_shape
from sharelm.sharing.shape import KINDS, ModelShape
from sharelm.sharing.value import Sharing

ELEMENT_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Footprint:
    """What one arm stores, computes and caches; parameters are counts, FLOPs are per token unless said."""

    stored_parameters: int
    materialised_parameters: int  # of the same model written out depth by depth, deltas and atoms merged
    embedding_parameters: int
    block_matrix_parameters: int  # of stored matrices of blocks, what Muon steps
    training_phases: tuple[tuple[float, int], ...]  # fraction of the tokens, FLOPs per token; two for a late loop
    merged_parameters: int  # held beside the stored ones by a request: mixed atoms
    merge_flops_per_pass: int
    merge_flops_per_request: int
    kv_elements_per_token: int
    weights_read_per_decoded_token: int
    activations_per_token: int  # elements kept for the backward pass, in eager mode with its fused attention
    checkpointed_activations_per_token: int  # the same with activation checkpointing, one depth's own left out
    _body_flops: int  # of a forward pass, without scores, head and low-rank products
    _low_rank_flops: int
    _head_flops: int
    _score_flops_per_position: int

    @property
    def training_flops_per_token(self) -> int:
        """FLOPs of forward and backward, the mean over the phases of training."""
        return round(sum(fraction * flops for fraction, flops in self.training_phases))

    def prefill_flops_per_token(self, prompt: int) -> float:
        """FLOPs per prompt token of a prefill that needs logits for the last position only."""
        return (
            self._body_flops
            + self._low_rank_flops
            + self._score_flops_per_position * prompt
            + self._head_flops / prompt
        )

    def decode_flops_per_token(self, context: int) -> int:
        """FLOPs of one generated token that attends to `context` positions (itself included)."""
        return self._body_flops + self._low_rank_flops + self._head_flops + self._score_flops_per_position * context

    def kv_bytes_per_token(self, bytes_per_element: int) -> int:
        """Bytes of key-value cache a token takes over all depths: every loop keeps its own unless `kv` says less."""
        return self.kv_elements_per_token * bytes_per_element

    def weight_bytes(self, bytes_per_element: int) -> int:
        """Bytes of the stored weights at this precision."""
        return self.stored_parameters * bytes_per_element

    def serving_weight_bytes(self, bytes_per_element: int) -> int:
        """Bytes of weights held while a request is served: the stored ones and mixed atoms."""
        return (self.stored_parameters + self.merged_parameters) * bytes_per_element

    def weight_bytes_read_per_decoded_token(self, bytes_per_element: int) -> int:
        """Bytes of weights that one decoding step of a batch of one reads, a shared block anew at every depth."""
        return self.weights_read_per_decoded_token * bytes_per_element

    def checkpoint_bytes(self, stage: int, bytes_per_element: int, muon: bool = False) -> int:
        """Bytes of a resumable checkpoint, all workers' parts together, at this ZeRO stage and precision.

        fp32 weights and AdamW's two fp32 moments, or Muon's one; at stages 1 and 2 the weights as trained beside them.
        """
        saved = 4 * self.block_matrix_parameters if muon else 0
        return self.stored_parameters * (12 + bytes_per_element if stage in (1, 2) else 12) - saved

    def sent_bytes_per_step(self, stage: int, passes: int, bytes_per_element: int) -> int:
        """Bytes that a worker hands to collectives in a step of so many passes: every stored parameter once.

        Gradients go in fp32, once a step at stages 0 and 1 and once a pass from stage 2 on; weights as trained are
        gathered once a step at stages 1 and 2 and once a pass at stage 3 (padding and norms left out).
        """
        gradients, weights = {0: (1, 0), 1: (1, 1), 2: (passes, 1), 3: (passes, passes)}[stage]
        return self.stored_parameters * (4 * gradients + bytes_per_element * weights)

    def optimizer_bytes(self, stage: int, workers: int, muon: bool = False) -> int:
        """Bytes of optimizer state that one worker holds: AdamW's moments, from stage 1 on of its part and with fp32
        weights of it (padding left out). Muon, at stage 0 alone, keeps one moment of block matrices."""
        if stage:
            return self.stored_parameters * 12 // workers
        return self.stored_parameters * 8 - (4 * self.block_matrix_parameters if muon else 0)


@dataclass
class _Sum:
    """Counts of one sub-layer kind over all depths."""

    stored: int = 0
    written_out: int = 0
    merged: int = 0
    applied: int = 0  # weights of matrices, once per depth that applies them
    low_rank: int = 0
    merge_pass: int = 0
    merge_request: int = 0
    read: int = 0


def _stream_flops(shape: ModelShape, sharing: Sharing) -> int:
    """FLOPs a token of one depth's two sub-layers to read the residual streams and to mix them."""
    return 2 * 2 * (sharing.streams + sharing.streams**2) * shape.width if sharing.streams > 1 else 0


def _activations(shape: ModelShape, sharing: Sharing, recompute: bool) -> int:
    """Elements that PyTorch keeps for the backward pass for each token, without compiling.

    Dropout's masks are left out, and so are merged matrices and the head's gradient, to which no token adds. A norm
    keeps its input, its input divided by the root mean square, that root, and its output; a norm of heads keeps its
    input, the root and its output. A matrix product keeps its input. Attention keeps queries, keys, values, a log-sum a
    head, and its output.
    """
    width, queries, keys = shape.width, shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    norm = 3 * width + 1
    streams = sharing.streams * width if sharing.streams > 1 else 0
    factorised = sharing.embedding.width or 0
    kept = norm + 2 * factorised  # final norm, the loss's gradient, what the embedding's factor reads
    own_keys = sharing.depths("attention", "key")
    if recompute:
        kept += sharing.depth * (sharing.streams * width)
        reused = set(own_keys) & set(sharing.looped_depths("attention")) if sharing.kv == "first" else set()
        kept += 2 * keys * len(reused)
    else:
        gated = 4 if shape.activation == "swiglu" else 2
        kept += sharing.depth * (2 * norm + 3 * queries + 2 * shape.heads + gated * shape.feed_forward)
        kept += len(own_keys) * (3 * keys + shape.kv_heads)
        kept += sharing.depth * 2 * (streams + width) if streams else 0
    if sharing.injection == "linear":
        kept += 2 * width * sharing.streams * max(0, len(sharing.loop_starts) - 1)
    return kept


def _phases(shape: ModelShape, sharing: Sharing, forward: int, depthless: int) -> tuple[tuple[float, int], ...]:
    """The phases of training. Before a late loop switches on, a pass runs the plain depths alone."""
    if not sharing.late:
        return ((1.0, 3 * forward),)
    plain = sum(2 * shape.matrix_parameters(kind) for kind in KINDS) + 4 * shape.width * shape.context
    plain += _stream_flops(shape, sharing)
    return (sharing.late, 3 * (len(sharing.plain_depths) * plain + depthless)), (1 - sharing.late, 3 * forward)


def _kind(shape: ModelShape, sharing: Sharing, kind: str) -> _Sum:
    """The counts of one sub-layer kind over all depths."""
    total, blocks, tied = _Sum(), sharing.blocks(kind), sharing.tied(kind)
    coefficients = sharing.coefficients(kind)
    for name, size in shape.matrices(kind).items():
        weights, applied = prod(size), len(sharing.depths(kind, name))
        deltas = sharing.delta_depths(kind, name)
        rank = min(sharing.rank(kind), *size)
        low_rank = len(deltas) * rank * sum(size)
        diagonal = len(deltas) * min(size) if kind in sharing.diagonal else 0
        total.stored += low_rank + diagonal + (0 if name in tied else blocks * weights)
        total.written_out += applied * weights
        total.applied += applied * weights
        total.read += applied * weights + low_rank + diagonal
        total.low_rank += low_rank
        total.merge_pass += 2 * len(deltas) * rank * weights
        if coefficients != "none":
            total.stored += applied * blocks if coefficients == "learned" else 0
            total.merged += applied * weights
            total.merge_pass += 2 * applied * blocks * weights
            total.merge_request += 2 * applied * blocks * weights
    for name, gain in shape.norm_gains(kind).items():
        applied = len(sharing.depths(kind, name))
        total.stored += gain * (applied if sharing.norm_gains_per_depth(kind) else blocks)
        total.written_out += gain * applied
        total.read += gain * applied
    return total


def footprint(shape: ModelShape, sharing: Sharing) -> Footprint:
    """The closed-form footprint of this shape under this sharing.

    Raises `InputError` where this shape cannot build it.
    """
    check_shape(shape, sharing)
    depth, width = sharing.depth, sharing.embedding_width(shape)
    kinds = [_kind(shape, sharing, kind) for kind in KINDS]
    projection = shape.width * width if sharing.embedding.width else 0
    head = shape.vocabulary * width + projection
    embedding = head * (2 if sharing.embedding.head == "untied" else 1)
    mixing = 2 * shape.width**2 if sharing.injection == "linear" else 0
    vectors = depth * shape.width if sharing.depth_embedding else 0
    streams = sharing.streams
    connections = 2 * (streams**2 + 2 * streams) if streams > 1 else 0  # of one depth
    rest = embedding + shape.width + mixing + vectors + depth * connections  # with the final norm
    injections = max(0, len(sharing.loop_starts) - 1)
    body = 2 * (sum(kind.applied for kind in kinds) + mixing * injections * streams + projection)
    body += depth * _stream_flops(shape, sharing)
    score = 4 * depth * shape.heads * shape.head_width
    forward = body + 2 * head + score * shape.context
    return Footprint(
        stored_parameters=sum(kind.stored for kind in kinds) + rest,
        materialised_parameters=sum(kind.written_out for kind in kinds) + rest,
        embedding_parameters=embedding,
        block_matrix_parameters=sum(
            sharing.blocks(kind) * prod(size)
            for kind in KINDS
            for name, size in shape.matrices(kind).items()
            if name not in sharing.tied(kind)
        ),
        merged_parameters=sum(kind.merged for kind in kinds),
        training_phases=_phases(shape, sharing, forward, 2 * (projection + head)),
        merge_flops_per_pass=sum(kind.merge_pass for kind in kinds),
        merge_flops_per_request=sum(kind.merge_request for kind in kinds),
        kv_elements_per_token=2 * len(set(sharing.cache_slots)) * shape.kv_heads * shape.head_width,
        weights_read_per_decoded_token=sum(kind.read for kind in kinds)
        + (width + projection)  # one row of the embedding
        + head
        + mixing * injections
        + vectors
        + depth * connections
        + shape.width,
        activations_per_token=_activations(shape, sharing, recompute=False),
        checkpointed_activations_per_token=_activations(shape, sharing, recompute=True),
        _body_flops=body,
        _low_rank_flops=2 * sum(kind.low_rank for kind in kinds),
        _head_flops=2 * head,
        _score_flops_per_position=score,
    )
