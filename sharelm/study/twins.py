"""The independent twin of a variant on each axis. `docs/twins.md` says the rules in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from sharelm.closed_form.footprint import Footprint, footprint
from sharelm.sharing import ModelShape, Sharing, build_sharing
from sharelm.study.arm import REFERENCE, Arm
from sharelm.study.thresholds import Axis
from sharelm.study.tree import Study

TOLERANCE = 0.01  # an axis that is further off is flagged
_FEED_FORWARD_STEP = 8


@dataclass(frozen=True)
class Speeds:
    """Training tokens per second, measured one after the other on one machine."""

    variant: float
    twin: float


@dataclass(frozen=True)
class Twin:
    """An independent model and its training tokens; the variant's figure on the axis (target) and its own."""

    shape: ModelShape
    sharing: Sharing
    tokens: int
    target: float
    reached: float


def serving_bytes(study: Study) -> Callable[[Footprint], int]:
    """Bytes of stored weights and of the caches at the end of the study's first cost workload.

    An element takes 4 bytes where the study says fp32 or cpu, else 2; which of them changes no twin.
    """
    workload, training = study.cost.workload[0], study.training
    positions = workload.batch * (workload.prompt_tokens + workload.new_tokens)
    element = 4 if training.precision == "fp32" or (training.precision == "auto" and training.device == "cpu") else 2
    return lambda size: size.serving_weight_bytes(element) + positions * size.kv_bytes_per_token(element)


def narrowed(variant: Arm, measure: Callable[[Footprint], int]) -> tuple[ModelShape, Sharing]:
    """The independent model of the variant's width that has the variant's figure of `measure`.

    For every depth up to the variant's, the feed-forward width that comes nearest is taken (in steps of 8, or of 1
    where 8 would miss by more than 1 %). Of the depths that come within 1 % the one whose feed-forward width changes
    least wins, the shallower of two; where none does, the one that comes nearest.
    """
    target, width = measure(variant.footprint), variant.shape.feed_forward

    def at(depth: int, feed_forward: int) -> int:
        return measure(footprint(replace(variant.shape, feed_forward=feed_forward), build_sharing(REFERENCE, depth)))

    def error(depth: int, feed_forward: int) -> float:
        return abs(at(depth, feed_forward) / target - 1)

    def nearest(depth: int) -> int:
        """The measure is a straight line in the feed-forward width."""
        first, second = at(depth, 1), at(depth, 2)
        exact = 1 + (target - first) / (second - first)
        rounded = width if round(exact, 9) == width else round(exact / _FEED_FORWARD_STEP) * _FEED_FORWARD_STEP
        if rounded < 1 or error(depth, rounded) > TOLERANCE:
            rounded = max(1, round(exact))
        return rounded

    def rank(candidate: tuple[int, int]) -> tuple[bool, float, int]:
        depth, feed_forward = candidate
        off, change = error(depth, feed_forward), max(feed_forward / width, width / feed_forward)
        return off > TOLERANCE, off if off > TOLERANCE else change, depth

    depth, feed_forward = min(((n, nearest(n)) for n in range(1, variant.sharing.depth + 1)), key=rank)
    return replace(variant.shape, feed_forward=feed_forward), build_sharing(REFERENCE, depth)


@cache
def parameters_model(variant: Arm) -> tuple[ModelShape, Sharing]:
    """The independent model that stores as many parameters as the variant: three axes build on it."""
    return narrowed(variant, lambda size: size.stored_parameters)


def _whole_steps(study: Study, tokens: float) -> int:
    """Tokens as a whole number of steps, and more of them than the warm-up has."""
    size = study.training.tokens_per_step
    return size * max(round(tokens / size), study.training.warmup_steps + 1)


def _depth(study: Study, variant: Arm, speeds: Speeds | None) -> Twin:
    depth = variant.sharing.depth
    return Twin(variant.shape, build_sharing(REFERENCE, depth), variant.tokens, depth, depth)


def _parameters(study: Study, variant: Arm, speeds: Speeds | None) -> Twin:
    shape, sharing = parameters_model(variant)
    reached = footprint(shape, sharing).stored_parameters
    return Twin(shape, sharing, variant.tokens, variant.footprint.stored_parameters, reached)


def _memory(study: Study, variant: Arm, speeds: Speeds | None) -> Twin:
    measure = serving_bytes(study)
    shape, sharing = narrowed(variant, measure)
    return Twin(shape, sharing, variant.tokens, measure(variant.footprint), measure(footprint(shape, sharing)))


def _compute(study: Study, variant: Arm, speeds: Speeds | None) -> Twin:
    """The parameters twin, trained until it has cost as many FLOPs as the variant."""
    shape, sharing = parameters_model(variant)
    a_token = footprint(shape, sharing).training_flops_per_token
    tokens = _whole_steps(study, variant.training_flops / a_token)
    return Twin(shape, sharing, tokens, variant.training_flops, tokens * a_token)


def _time(study: Study, variant: Arm, speeds: Speeds | None) -> Twin | None:
    """The parameters twin, trained for as many seconds as the variant; None until their speeds were measured."""
    if speeds is None:
        return None
    shape, sharing = parameters_model(variant)
    seconds = variant.tokens / speeds.variant
    tokens = _whole_steps(study, seconds * speeds.twin)
    return Twin(shape, sharing, tokens, seconds, tokens / speeds.twin)


AXES: dict[Axis, Callable[[Study, Arm, Speeds | None], Twin | None]] = {
    "depth": _depth,
    "parameters": _parameters,
    "compute": _compute,
    "memory": _memory,
    "time": _time,
}
