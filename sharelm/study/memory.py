"""The least ZeRO stage at which every arm of a study fits a worker, and in words what to change where none does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sharelm.closed_form.footprint import ELEMENT_BYTES
from sharelm.closed_form.memory import SHARE, Conditions, Parts, fits, worker_memory
from sharelm.errors import InputError, ShareLMError, first_line
from sharelm.formats import si
from sharelm.study.arm import Arm
from sharelm.study.training import Training

STAGES = (0, 1, 2, 3)
# what torch and its libraries say where a process or a device has no memory left
_NO_ROOM = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
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
class Need:
    """What the arm that needs most memory at a stage needs."""

    stage: int
    arm: str
    parts: Parts


def parts(arm: Arm, training: Training, precision: str, stage: int) -> Parts:
    """What one worker holds while it trains this arm in "fp32" or "bf16" at a ZeRO stage."""
    context, workers = arm.shape.context, training.workers
    conditions = Conditions(
        workers=workers,
        tokens_per_pass=context * (training.sequences_per_pass or training.tokens_per_step // context // workers),
        element_bytes=ELEMENT_BYTES[precision],
        recomputes=training.activation_checkpointing != "off",
        offloads=training.offload_optimizer,
        muon=training.optimizer == "muon",
    )
    return worker_memory(arm.shape, arm.sharing, conditions, stage)


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
        if fits(need.parts.total, memory):
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
