"""How much memory a worker needs to train an arm at each ZeRO stage, and the least stage that fits.

Closed forms of what is held at once in a step, held against measured peaks by a test. What frameworks hold for
themselves, and what an allocator loses between blocks, is left to what `SHARE` leaves free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from sharelm.errors import InputError, ShareLMError, first_line
from sharelm.formats import si
from sharelm.sharing.footprint import HEAD_ROWS
from sharelm.study.arm import Arm
from sharelm.study.training import Training

BUCKET = 1 << 24  # elements that DeepSpeed sends at once
SHARE = 0.8  # of a device's memory that a trial may fill by these forms
STAGES = (0, 1, 2, 3)
# what torch and its libraries say where a process or a device has no memory left
_NO_ROOM = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_BYTES = {"fp32": 4, "bf16": 2}
_FEWER_TOKENS = "set a smaller training.sequences_per_pass"
_MORE_WORKERS = "set more training.workers"
_OFFLOAD = f"{_MORE_WORKERS}, or training.offload_optimizer = true"
_ADVICE = {
    "activations": f"{_FEWER_TOKENS}, or training.activation_checkpointing = 'non_reentrant'",
    "logits": _FEWER_TOKENS,
    "optimizer": _OFFLOAD,
    "gradients": _MORE_WORKERS,
    "step": _OFFLOAD,
}


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


@dataclass(frozen=True)
class Need:
    """What the arm that needs most memory at a stage needs."""

    stage: int
    arm: str
    parts: Parts


def parts(arm: Arm, training: Training, precision: str, stage: int) -> Parts:
    """What one worker holds while it trains this arm in "fp32" or "bf16" at a ZeRO stage.

    Stage 0 keeps everything in fp32 and casts; from stage 1 on weights and gradients are in `precision`, with fp32
    weights in the optimizer. Stage 3 gathers the whole model for a pass, and its own part of it stays beside that; it
    keeps a buffer for gradients all the time, and makes those of a bucket fp32 to send them.
    """
    figures, workers, size = arm.footprint, training.workers, _BYTES[precision]
    stored, held = figures.stored_parameters, size if stage else 4
    merges = figures.merge_flops_per_pass > 0
    tokens = arm.shape.context * (
        training.sequences_per_pass or training.tokens_per_step // arm.shape.context // workers
    )
    kept = figures.activations_per_token
    if training.activation_checkpointing != "off":  # what is kept, and one depth that is run again
        kept = figures.checkpointed_activations_per_token + kept // arm.sharing.depth
    flat = stored * 4 if workers > 1 else 0  # gradients as stage 0 sends them
    away = training.offload_optimizer  # to the host
    apart = stored * 12 // workers  # from stage 1 on gradients in fp32, and AdamW's temporaries where it is not fused
    return Parts(
        weights=stored * held + (stored * held // workers if stage == 3 else 0),
        gradients=(stored * held if stage < 2 else stored * held // workers) + (BUCKET * 4 if stage == 3 else 0),
        optimizer=0 if away else figures.optimizer_bytes(stage, workers, training.optimizer == "muon"),
        copies=figures.materialised_parameters * (2 * held * merges + size * (size != held)),
        activations=tokens * kept * size,
        logits=min(tokens, HEAD_ROWS) * arm.shape.vocabulary * (13 + size)
        + figures.embedding_parameters * (4 + 2 * size),
        bucket=min(stored, BUCKET) * (held + 4) if stage == 3 else BUCKET * held if stage else 0,
        step=0 if away else apart if stage else flat,
    )


def most(arms: Sequence[Arm], training: Training, precision: str, stage: int) -> Need:
    """The arm that needs most at this stage."""
    found = (Need(stage, arm.name, parts(arm, training, precision, stage)) for arm in arms)
    return max(found, key=lambda need: need.parts.total)


def needs(arms: Sequence[Arm], training: Training, precision: str) -> list[Need]:
    """At every stage that the optimizer allows, the arm that needs most."""
    allowed = STAGES[1:] if training.offload_optimizer else STAGES if training.optimizer == "adamw" else STAGES[:1]
    return [most(arms, training, precision, stage) for stage in allowed]


def least_stage(arms: Sequence[Arm], training: Training, precision: str, memory: int) -> tuple[int, str]:
    """The least stage at which every arm fits a worker's `memory` (bytes), and a line that says why.

    Raises `InputError` where none does.
    """
    found = needs(arms, training, precision)
    for need in found:
        if need.parts.total <= SHARE * memory:
            of = f"{si(need.parts.total, 'B')} of {si(memory, 'B')}"
            return need.stage, f"ZeRO stage {need.stage}: the largest arm, {need.arm}, needs {of} a worker"
    best = min(found, key=lambda need: need.parts.total)
    raise InputError(
        f"training.zero_stage = 'auto': no stage fits; at stage {best.stage} arm {best.arm} needs "
        f"{si(best.parts.total, 'B')} a worker, and {SHARE:.0%} of its {si(memory, 'B')} may be filled; "
        f"{_largest(best.parts)}"
    )


def ran_out(error: BaseException) -> bool:
    """Whether a process or a device had no memory left."""
    said = any(words in str(error) for words in _NO_ROOM)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)


@contextmanager
def explain_lack_of_memory(trial: str, arm: Arm, training: Training, precision: str) -> Iterator[None]:
    """Raise a `ShareLMError` with the largest part and what to change where memory runs out inside."""
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        need = parts(arm, training, precision, training.stage)
        raise ShareLMError(
            f"{trial} does not fit into memory here: by the closed forms it needs {si(need.total, 'B')} a worker at "
            f"ZeRO stage {training.stage}; {_largest(need)} ({first_line(error)})"
        ) from error


def _largest(need: Parts) -> str:
    """The largest part and what makes it smaller."""
    name = need.largest
    size = si(getattr(need, name), "B")
    return f"the largest part is {name}, {size}: {_ADVICE.get(name, 'use a smaller model')}"
