"""From a study to its arms, comparisons and trials: every variant meets its independent twins."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sharelm.sharing import ModelShape, Sharing, build_sharing
from sharelm.study.arm import REFERENCE, Arm, Model, Role
from sharelm.study.tree import Axis, Study
from sharelm.study.twins import AXES, parameters_model


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
    """A variant beside its independent twin on one axis, and how well the axis is matched.

    `target` and `reached` are depths, stored parameters, training FLOPs, serving bytes or training seconds.
    """

    axis: Axis
    variant: str
    twin: str
    target: float
    reached: float

    @property
    def relative_error(self) -> float:
        """(reached - target) / target of what the axis holds equal."""
        return self.reached / self.target - 1


def _name(study: Study, shape: ModelShape, sharing: Sharing, tokens: int) -> str:
    """A twin's name says in what it differs from the reference: depth, feed-forward width, training steps."""
    name = f"{REFERENCE}-L{sharing.depth}"
    if shape != study.shape:
        name += f"-ff{shape.feed_forward}"
    if tokens != study.training.tokens:
        name += f"-steps{tokens // study.training.tokens_per_step}"
    return name


def _variants(study: Study) -> list[Arm]:
    depth, tokens = study.model.depth, study.training.tokens
    return [Arm(v.name, "variant", study.shape, v.sharing(depth), tokens) for v in study.variant]


def _expand(study: Study) -> tuple[list[Arm], list[Comparison]]:
    tokens = study.training.tokens
    independent = build_sharing(REFERENCE, study.model.depth)
    reference = Arm(REFERENCE, "reference", study.shape, independent, tokens)
    found = {(reference.shape, reference.sharing, reference.tokens): reference}

    def arm(role: Role, shape: ModelShape, sharing: Sharing, tokens: int) -> Arm:
        """The arm of this model; one that is there already is taken."""
        new = Arm(_name(study, shape, sharing, tokens), role, shape, sharing, tokens)
        return found.setdefault((shape, sharing, tokens), new)

    variants, pairs = _variants(study), []
    for variant in variants:
        for axis in study.twins.axes:
            twin = AXES[axis](study, variant)
            if twin is not None:
                name = arm("twin", twin.shape, twin.sharing, twin.tokens).name
                pairs.append(Comparison(axis, variant.name, name, twin.target, twin.reached))
    for depth in study.twins.ladder:
        arm("rung", study.shape, build_sharing(REFERENCE, depth), tokens)
    _, *others = found.values()
    return [_tuned(study, one) for one in (reference, *variants, *others)], pairs


def _tuned(study: Study, arm: Arm) -> Arm:
    """The arm with its own learning rate, once it is known."""
    found = study.tunings.get(arm.model)
    return arm if found is None else replace(arm, learning_rate=found.learning_rate)


def arms(study: Study) -> list[Arm]:
    """The reference, the variants, every twin they need and the ladder's rungs; no two are the same model.

    Twins of equal training time are among them once the study is `measured`, and learning rates of their own are
    theirs once it is `tuned`.
    """
    return _expand(study)[0]


def comparisons(study: Study) -> list[Comparison]:
    """Each variant with its twin on each axis of the study; on the time axis once the study is `measured`."""
    return _expand(study)[1]


def timed_pairs(study: Study) -> list[tuple[Arm, Arm]]:
    """Each variant with the model whose speed the time axis has to know; none where the study lacks that axis."""
    if "time" not in study.twins.axes:
        return []
    pairs = []
    for variant in _variants(study):
        shape, sharing = parameters_model(variant)
        name = _name(study, shape, sharing, variant.tokens)
        pairs.append((variant, Arm(name, "twin", shape, sharing, variant.tokens)))
    return pairs


def models(study: Study) -> list[Arm]:
    """An arm of every model of the study; the models of time twins are known before their tokens are."""
    found: dict[Model, Arm] = {}
    for arm in [*arms(study), *(like for _, like in timed_pairs(study))]:
        found.setdefault(arm.model, arm)
    return list(found.values())


def trials(study: Study) -> list[Trial]:
    """Every arm with every seed, seeds outermost so that a first whole answer comes early."""
    return [Trial(arm, seed) for seed in study.study.seeds for arm in arms(study)]
