"""What a study expands into: its arms, comparisons and trials. Every variant meets its independent twins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from sharelm.sharing import ModelShape, Sharing, build_sharing
from sharelm.study.arm import REFERENCE, Arm, Model, Role
from sharelm.study.thresholds import Axis
from sharelm.study.tree import Study
from sharelm.study.tune import Tuning
from sharelm.study.twins import AXES, Speeds, parameters_model


@dataclass(frozen=True)
class Trial:
    """One training run: an arm with a seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """The trial's name, unique in its study."""
        return f"{self.arm.name}.s{self.seed}"

    @property
    def labels(self) -> dict[str, Any]:
        """The columns that name the trial in the rows of every table."""
        return {"trial": self.name, "arm": self.arm.name, "seed": self.seed}


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


@dataclass(frozen=True)
class Measured:
    """What a plan rests on that only a machine can tell; empty where nothing has to be measured, or is not yet."""

    speeds: Mapping[str, Speeds] = field(default_factory=dict)  # of each variant and its time twin, by the variant
    tunings: Mapping[Model, Tuning] = field(default_factory=dict)  # of each model's learning rate


@dataclass(frozen=True)
class Plan:
    """All that a study expands into. It is made once, committed, and passed on: nobody expands a study again.

    `arms` are the reference, the variants, every twin they need and the ladder's rungs; no two are the same model
    trained on the same tokens.
    """

    study: Study
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    speeds: Mapping[str, Speeds] = field(default_factory=dict)  # by variant
    tunings: Mapping[str, Tuning] = field(default_factory=dict)  # by arm

    @property
    def trials(self) -> list[Trial]:
        """Every arm with every seed, seeds outermost so that a first whole answer comes early."""
        return [Trial(arm, seed) for seed in self.study.study.seeds for arm in self.arms]

    @property
    def models(self) -> list[Arm]:
        """An arm of every model; the models of time twins are known before their tokens are."""
        found: dict[Model, Arm] = {}
        for arm in [*self.arms, *(like for _, like in timed_pairs(self.study))]:
            found.setdefault(arm.model, arm)
        return list(found.values())

    def tree(self) -> dict[str, Any]:
        """The plan as plain values, as it is committed."""
        found: dict[str, Any] = _PLAN.dump_python(self, mode="json")
        return found


def plan_from_tree(tree: Mapping[str, Any]) -> Plan:
    """The plan of plain values, as `Plan.tree` gives them; raises `ValueError` for anything else."""
    return _PLAN.validate_python(tree)


def expand(study: Study, measured: Measured | None = None) -> Plan:
    """The plan of a study.

    Twins of equal training time are among the arms where their speeds were measured, and arms have learning rates of
    their own where those were tuned.
    """
    measured = measured or Measured()
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
            twin = AXES[axis](study, variant, measured.speeds.get(variant.name))
            if twin is not None:
                name = arm("twin", twin.shape, twin.sharing, twin.tokens).name
                pairs.append(Comparison(axis, variant.name, name, twin.target, twin.reached))
    for depth in study.twins.ladder:
        arm("rung", study.shape, build_sharing(REFERENCE, depth), tokens)
    _, *others = found.values()
    arms = (reference, *variants, *others)
    tunings = {arm.name: measured.tunings[arm.model] for arm in arms if arm.model in measured.tunings}
    rates = {name: found.learning_rate for name, found in tunings.items()}
    return Plan(
        study,
        tuple(replace(arm, learning_rate=rates.get(arm.name)) for arm in arms),
        tuple(pairs),
        {pair.variant: measured.speeds[pair.variant] for pair in pairs if pair.axis == "time"},
        tunings,
    )


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


_PLAN = TypeAdapter(Plan)
