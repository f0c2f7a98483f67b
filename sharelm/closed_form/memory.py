"""How many bytes one worker holds in a training step, at each ZeRO stage.

What is held at once in a step is counted, and held against measured peaks by a test. What frameworks hold for
themselves, and what an allocator loses between blocks, is left to what `SHARE` leaves free.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sharelm.closed_form.footprint import footprint
from sharelm.sharing.shape import ModelShape
from sharelm.sharing.value import Sharing

BUCKET = 1 << 24  # elements that DeepSpeed sends at once
HEAD_ROWS = 4096  # positions whose logits training holds at once: enough for products to run at full speed
SHARE = 0.8  # of a device's memory that may be filled by these forms


@dataclass(frozen=True)
class Conditions:
    """What the memory of a worker depends on beside the model and the ZeRO stage."""

    workers: int
    tokens_per_pass: int  # of one worker
    element_bytes: int  # in the precision that is computed in
    recomputes: bool  # activations are not kept, but for each depth's input
    offloads: bool  # the optimizer lies in the host's memory
    muon: bool


@dataclass(frozen=True)
class Parts:
    """Bytes that one worker holds in a training step, by what they are for.

    A pass holds `copies` of matrices (merged with deltas, or cast to the precision that is computed in) and its
    `activations`; forward the `logits` of a chunk of it with the head's gradient, backward from stage 1 on a `bucket`
    of gradients to send. A step of the optimizer comes when these are gone and needs `step`.
    """

    weights: int
    gradients: int
    optimizer: int
    copies: int
    activations: int
    logits: int
    bucket: int
    step: int

    @property
    def total(self) -> int:
        """What is held at once, at most."""
        in_a_pass = self.copies + self.activations + max(self.logits, self.bucket)
        return self.weights + self.gradients + self.optimizer + max(in_a_pass, self.step)

    @property
    def largest(self) -> str:
        """The name of the largest part."""
        parts = asdict(self)
        return max(parts, key=lambda name: parts[name])


def worker_memory(shape: ModelShape, sharing: Sharing, conditions: Conditions, stage: int) -> Parts:
    """What one worker holds while it trains this model at a ZeRO stage.

    Stage 0 keeps everything in fp32 and casts; from stage 1 on weights and gradients are in the precision that is
    computed in, with fp32 weights in the optimizer. Stage 3 gathers the whole model for a pass, and its own part of it
    stays beside that; it keeps a buffer for gradients all the time, and makes those of a bucket fp32 to send them.
    """
    figures, workers, size = footprint(shape, sharing), conditions.workers, conditions.element_bytes
    stored, held = figures.stored_parameters, size if stage else 4
    merges = figures.merge_flops_per_pass > 0
    tokens, kept = conditions.tokens_per_pass, figures.activations_per_token
    if conditions.recomputes:  # what is kept, and one depth that is run again
        kept = figures.checkpointed_activations_per_token + kept // sharing.depth
    flat = stored * 4 if workers > 1 else 0  # gradients as stage 0 sends them
    away = conditions.offloads
    apart = stored * 12 // workers  # from stage 1 on gradients in fp32, and AdamW's temporaries where it is not fused
    return Parts(
        weights=stored * held + (stored * held // workers if stage == 3 else 0),
        gradients=(stored * held if stage < 2 else stored * held // workers) + (BUCKET * 4 if stage == 3 else 0),
        optimizer=0 if away else figures.optimizer_bytes(stage, workers, conditions.muon),
        copies=figures.materialised_parameters * (2 * held * merges + size * (size != held)),
        activations=tokens * kept * size,
        logits=min(tokens, HEAD_ROWS) * shape.vocabulary * (13 + size) + figures.embedding_parameters * (4 + 2 * size),
        bucket=min(stored, BUCKET) * (held + 4) if stage == 3 else BUCKET * held if stage else 0,
        step=0 if away else apart if stage else flat,
    )


def fits(need: int, memory: int) -> bool:
    """Whether so many bytes by these forms fit a device's `memory` (bytes)."""
    return need <= SHARE * memory
