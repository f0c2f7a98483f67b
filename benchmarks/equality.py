"""Whether a trial learns what its model learns without all that makes it fast: `equal` of `benchmarks.peers`."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.plain import DEVICE, RandomRows, Setting, batch_of
from benchmarks.runs import run_of, study_of
from sharelm.model import Decoder
from sharelm.model.compiling import AS_WRITTEN
from sharelm.training.engine import repeat_to_the_bit

EQUAL_STEPS = 200
FLASH = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
EFFICIENT = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def whole_logits(model: Decoder, tokens: Tensor, targets: Tensor) -> Tensor:
    """The loss by torch's own cross-entropy, of whole logits in fp32."""
    logits = model.head(model.hidden(tokens))
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def losses(setting: Setting, scheme: str, attentions: list[SDPBackend]) -> np.ndarray[Any, Any]:
    """Losses over 200 steps as a trial is trained or, where attentions of torch's are named, in eager mode."""
    run = run_of(setting, scheme, RandomRows(setting.model))
    if attentions:
        run.graphs, run.model._functions = {}, AS_WRITTEN
        run.model.forward = partial(whole_logits, run.model)
    with sdpa_kernel(attentions) if attentions else nullcontext():
        found = np.array([run.step(step).read()[0] for step in range(EQUAL_STEPS)])
    run.close()
    return found


def gradients(setting: Setting, scheme: str, way: str) -> dict[str, Tensor]:
    """A first pass's gradients in fp32, in bf16 in eager mode, or as a trial computes them."""
    _, trial = study_of(setting, scheme)
    precision = None if way == "fp32" else torch.bfloat16
    model = Decoder(setting.model, trial.arm.sharing, compute_dtype=precision).initialise(0).to(DEVICE).train()
    rows = batch_of(setting)
    if way == "fast":
        repeat_to_the_bit()
        model.compile_depths()
        model(rows[:, :-1], targets=rows[:, 1:]).backward()
    else:
        whole_logits(model, rows[:, :-1], rows[:, 1:]).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def equal(setting: Setting, scheme: str) -> dict[str, Any]:
    """How far a trial as trained is from its model run eagerly with whole fp32 logits, and what rounding alone does.

    Losses of 200 steps beside those of the eager model with two of torch's attentions; a first pass's gradients
    against fp32's, the worst parameter's error by norm.
    """
    fast, flash, efficient = (losses(setting, scheme, attentions) for attentions in ([], FLASH, EFFICIENT))
    exact = gradients(setting, scheme, "fp32")
    errors = {
        way: max(float((g - exact[name]).norm() / exact[name].norm()) for name, g in found.items())
        for way in ("fast", "eager")
        for found in (gradients(setting, scheme, way),)
    }
    return {
        "largest_difference_nats": float(abs(fast - flash).max()),
        "mean_difference_of_last_50_nats": float((fast - flash)[-50:].mean()),
        "largest_difference_of_eager_attentions_nats": float(abs(efficient - flash).max()),
        "first": fast[0],
        "last": fast[-1],
        "largest_gradient_error": errors["fast"],
        "largest_gradient_error_eager": errors["eager"],
    }
