"""Proxies: the short trainings from which every arm of a study with `[training.tune]` gets its learning rate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sharelm.study.plan import Plan, Trial
from sharelm.study.tree import Study


def proxied(study: Study) -> Study:
    """The study that a proxy is a trial of: the proxy's tokens, and of its steps as large a share of warm-up."""
    training, tune = study.training, study.training.tune
    assert tune is not None
    steps = tune.tokens // training.tokens_per_step
    warmup = training.warmup_steps * steps // training.steps
    if training.warmup_steps:
        warmup = max(1, warmup)
    short = training.model_copy(
        update={"tokens": tune.tokens, "warmup_steps": warmup, "tune": None, "on_divergence": "stop"}
    )
    return study.model_copy(update={"training": short})


def proxies(plan: Plan) -> list[Trial]:
    """Each model of the plan with each learning rate that is tried, with the first seed; none where untuned.

    Arms that differ in tokens only are one model.
    """
    tune = plan.study.training.tune
    if tune is None:
        return []
    return [
        Trial(
            replace(arm, name=f"{arm.name}-lr{rate}", tokens=tune.tokens, learning_rate=rate),
            plan.study.study.seeds[0],
        )
        for arm in plan.models
        for rate in tune.learning_rates
    ]


def tuning_rows(plan: Plan) -> list[dict[str, Any]]:
    """Rows of the table `tunings`: every arm with every rate it was tried with; none where untuned."""
    tune = plan.study.training.tune
    return [
        {
            "arm": arm,
            "learning_rate": tried.learning_rate,
            "tokens": tune.tokens,
            "seed": plan.study.study.seeds[0],
            "status": "diverged" if tried.loss is None else "done",
            "loss_nats": tried.loss,
            "chosen_learning_rate": found.learning_rate,
            "at_edge": found.at_edge,
            "training_seconds": tried.seconds,
        }
        for arm, found in plan.tunings.items()
        for tried in found.tried
        if tune is not None
    ]
