"""An arm: one model of the study and how long it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharelm.closed_form.footprint import Footprint, footprint
from sharelm.sharing import ModelShape, Sharing
from sharelm.study.training import Training

Role = Literal["reference", "variant", "twin", "rung"]
REFERENCE = "independent"
Model = tuple[ModelShape, Sharing]


@dataclass(frozen=True)
class Arm:
    """One model of the study: a shape under a sharing, and the tokens it is trained on."""

    name: str
    role: Role
    shape: ModelShape
    sharing: Sharing
    tokens: int
    learning_rate: float | None = None  # its own, where rates are tuned and the choice is known

    @property
    def model(self) -> Model:
        """What arms that differ in tokens only have in common."""
        return self.shape, self.sharing

    @property
    def footprint(self) -> Footprint:
        """The arm's closed-form footprint."""
        return footprint(self.shape, self.sharing)

    @property
    def training_flops(self) -> int:
        """FLOPs of its whole training."""
        return self.footprint.training_flops_per_token * self.tokens

    def training(self, shared: Training) -> Training:
        """The study's training settings with this arm's tokens and rate; its steps follow from them."""
        rate = shared.learning_rate if self.learning_rate is None else self.learning_rate
        return shared.model_copy(update={"tokens": self.tokens, "learning_rate": rate})
