"""The learning rate of a step: warm-up, then cosine or warm-up-stable-decay."""

from __future__ import annotations

import math

from sharelm.study.training import Training


def learning_rate(training: Training, step: int) -> float:
    """The rate of optimizer step `step` (from 0).

    Linear warm-up over `warmup_steps` (the first step already moves), then a cosine to
    `final_learning_rate_fraction` of the peak (SGDR, arXiv 1608.03983), or the peak until the last
    `decay_fraction` of the steps and a straight line down (WSD; MiniCPM, arXiv 2404.06395).
    """
    peak, floor = training.learning_rate, training.final_learning_rate_fraction
    if step < training.warmup_steps:
        return peak * (step + 1) / training.warmup_steps
    if training.learning_rate_schedule == "cosine":
        progress = (step - training.warmup_steps) / max(1, training.steps - 1 - training.warmup_steps)
        return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
    decay = max(1, round(training.decay_fraction * training.steps))
    left = training.steps - 1 - step
    return peak * (floor + (1 - floor) * min(1.0, left / decay))
