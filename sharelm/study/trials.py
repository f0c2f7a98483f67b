"""From a study to its arms, comparisons and trials: every variant meets its independent twins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sharelm.sharing import Footprint, ModelShape, Sharing, build_sharing, footprint
from sharelm.study.tree import Study

Role = Literal["reference", "variant", "twin"]
REFERENCE = "independent"


@dataclass(frozen=True)
class Arm:
    """One model of the study: a shape under a sharing."""

    name: str
    role: Role
    shape: ModelShape
    sharing: Sharing

    @property
    def footprint(self) -> Footprint:
        """The arm's closed-form footprint."""
        return footprint(self.shape, self.sharing)


@dataclass(frozen=True)
class Trial:
    """One training run: an arm with a seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """The trial's name, unique in its study."""
        return f"{self.arm.name}.s{self.seed}"


@dataclass(frozen=True)
class Comparison:
    """A variant beside its independent twin on one axis, and how well the axis is matched."""

    axis: str
    variant: str
    twin: str
    target: int
    reached: int

    @property
    def relative_error(self) -> float:
        """(reached - target) / target of what the axis holds equal."""
        return self.reached / self.target - 1


def _independent(shape: ModelShape, depth: int) -> tuple[ModelShape, Sharing]:
    return shape, build_sharing("independent", depth)


def _same_depth(variant: Arm) -> tuple[ModelShape, Sharing, int, int]:
    shape, sharing = _independent(variant.shape, variant.sharing.depth)
    return shape, sharing, variant.sharing.depth, sharing.depth


def _same_parameters(variant: Arm) -> tuple[ModelShape, Sharing, int, int]:
    """The independent model of the same width whose stored parameters are the variant's.

    For every depth up to the variant's, the feed-forward width that comes nearest to the target is taken (in
    steps of 8, or of 1 where 8 would miss by more than 1 %); of those depths the one whose feed-forward width
    changes least wins.
    """
    target = variant.footprint.stored_parameters
    width = variant.shape.feed_forward
    best: tuple[float, int, ModelShape] | None = None
    for depth in range(1, variant.sharing.depth + 1):
        without = footprint(replace(variant.shape, feed_forward=0), build_sharing(REFERENCE, depth)).stored_parameters
        # parameters of one unit of feed-forward width at every depth
        parameters = len(variant.shape.matrices("feed_forward")) * variant.shape.width * depth
        exact = (target - without) / parameters
        nearest = width if round(exact, 9) == width else round(exact / 8) * 8
        if nearest < 8 or abs(nearest - exact) * parameters > 0.01 * target:
            nearest = round(exact)
        if nearest < 1:
            continue
        change = max(nearest / width, width / nearest)
        if best is None or change < best[0]:
            best = (change, depth, replace(variant.shape, feed_forward=nearest))
    assert best is not None  # depth 1 of the same width always fits: a variant stores at least one block of each
    shape, sharing = _independent(best[2], best[1])
    return shape, sharing, target, footprint(shape, sharing).stored_parameters


AXES = {"depth": _same_depth, "parameters": _same_parameters}


def _twin_name(shape: ModelShape, sharing: Sharing, reference: ModelShape) -> str:
    name = f"{REFERENCE}-L{sharing.depth}"
    return name if shape == reference else f"{name}-ff{shape.feed_forward}"


def _expand(study: Study) -> tuple[list[Arm], list[Comparison]]:
    reference = Arm(REFERENCE, "reference", *_independent(study.shape, study.model.depth))
    variants = [Arm(v.name, "variant", study.shape, v.sharing(study.model.depth)) for v in study.variant]
    found: dict[tuple[ModelShape, Sharing], Arm] = {(reference.shape, reference.sharing): reference}
    pairs = []
    for variant in variants:
        for axis in study.twins.axes:
            shape, sharing, target, reached = AXES[axis](variant)
            if (shape, sharing) not in found:
                found[shape, sharing] = Arm(_twin_name(shape, sharing, study.shape), "twin", shape, sharing)
            pairs.append(Comparison(axis, variant.name, found[shape, sharing].name, target, reached))
    return [reference, *variants, *(arm for arm in found.values() if arm.role == "twin")], pairs


def arms(study: Study) -> list[Arm]:
    """The reference, the variants, and every twin they need; no two are the same model."""
    return _expand(study)[0]


def comparisons(study: Study) -> list[Comparison]:
    """Each variant with its twin on each axis of the study."""
    return _expand(study)[1]


def trials(study: Study) -> list[Trial]:
    """Every arm with every seed, seeds outermost so that a first whole answer comes early."""
    return [Trial(arm, seed) for seed in study.study.seeds for arm in arms(study)]
