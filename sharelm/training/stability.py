"""Stability figures of a run: spikes, gradient-norm quantiles, steps that are not finite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

WINDOW = 32


@dataclass(frozen=True)
class Stability:
    """Stability figures of a run, from its losses (nats) and gradient norms."""

    final_loss_nats: float
    loss_spikes: int
    nonfinite_steps: int
    gradient_norm_p50: float
    gradient_norm_p95: float
    gradient_norm_max: float


def stability(losses: ArrayLike, gradient_norms: ArrayLike, spike_factor: float) -> Stability:
    """Stability of a run from its per-step losses and gradient norms, both of shape [steps].

    A spike is a step whose loss exceeds `spike_factor` times the median of the (up to 32) steps before it. The
    final loss is the mean over the last 5 % of the steps, at least one. Quantiles are over finite norms; NaN
    where there is none.
    """
    loss, norm = np.asarray(losses, dtype=np.float64), np.asarray(gradient_norms, dtype=np.float64)
    spikes = sum(
        bool(loss[i] > spike_factor * np.median(loss[max(0, i - WINDOW) : i])) for i in range(WINDOW // 4, len(loss))
    )
    finite = norm[np.isfinite(norm)]
    p50, p95, top = np.quantile(finite, [0.5, 0.95, 1.0]) if finite.size else (float("nan"),) * 3
    tail = loss[-max(1, len(loss) // 20) :]
    return Stability(
        final_loss_nats=float(tail.mean()) if loss.size else float("nan"),
        loss_spikes=spikes,
        nonfinite_steps=int((~(np.isfinite(loss) & np.isfinite(norm))).sum()),
        gradient_norm_p50=float(p50),
        gradient_norm_p95=float(p95),
        gradient_norm_max=float(top),
    )
