"""Muon beside AdamW: who steps what, against both optimizers written out; and through a kill."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sharelm.closed_form.footprint import footprint
from sharelm.model import Decoder
from sharelm.store import open_store
from sharelm.study import expand
from sharelm.training.engine import build_optimizer, decayed_parameters
from sharelm.training.order import step_rows
from sharelm.training.rate import learning_rate
from sharelm.training.trial import train_trial
from tests.sharelm.distributed import on_ranks
from tests.sharelm.models import SHAPE, SHARINGS, fitting
from tests.sharelm.small import RandomCorpus, RandomRows, small_study
from tests.sharelm.test_training import CPU, SHARED, _losses, _plain

MUON = {"optimizer": "muon", "zero_stage": 0}


def orthogonalised(gradient: torch.Tensor) -> torch.Tensor:
    """Jordan's quintic Newton-Schulz iteration, in fp32 on the wide side."""
    tall = gradient.shape[0] > gradient.shape[1]
    x = gradient.t() if tall else gradient
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.t()
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x.t() if tall else x


@pytest.mark.parametrize("scheme", ["cycle", "relaxed", "atoms"])
def test_a_step_is_muons_for_block_matrices_and_adamws_for_the_rest(scheme):
    training = small_study(**MUON, weight_decay=0.2).training
    model = Decoder(SHAPE, SHARINGS[scheme]).initialise(0)
    optimizer = build_optimizer(model, training, torch.device("cpu"))
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter)))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    stepped = set()
    for name, parameter in model.named_parameters():
        rate, old = training.learning_rate, before[name]
        if "_blocks." in name and parameter.dim() == 2:
            stepped.add(name)
            size = 0.2 * max(parameter.shape) ** 0.5
            # Nesterov's momentum of a first step is the gradient, but for a factor that orthogonalising removes
            expected = old * (1 - rate * 0.2) - rate * size * orthogonalised(parameter.grad)
            assert (parameter - expected).abs().max() < 0.05 * rate * size  # torch iterates in bf16
        else:
            decayed = any(parameter is other for other in decayed_parameters(model))
            expected = old * (1 - rate * 0.2 * decayed) - rate * parameter.grad.sign()  # Adam's first step
            torch.testing.assert_close(parameter.detach(), expected, atol=1e-5, rtol=1e-4)
    kinds = {name.split(".")[-2] for name in stepped}
    assert kinds == {"query", "key", "value", "output", "gate", "up", "down"}


@pytest.mark.parametrize("scheme", ["independent", "cycle", "relaxed", "atoms", "transpose"])
def test_its_state_weighs_what_the_closed_form_says(scheme):
    shape, sharing = fitting(SHARINGS[scheme]), SHARINGS[scheme]
    model = Decoder(shape, sharing).initialise(0)
    optimizer = build_optimizer(model, small_study(**MUON).training, torch.device("cpu"))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    parts = optimizer.state_dict().values()
    held = sum(t.nbytes for part in parts for state in part["state"].values() for t in state.values() if t.dim())
    assert held == footprint(shape, sharing).optimizer_bytes(0, 1, muon=True)


def _train(store: str, die_at: int | None) -> None:
    study = small_study(**MUON)

    def on_step(trial: str, step: int, *_: float) -> None:
        if step == die_at:
            os._exit(9)

    train_trial(study, expand(study).trials[SHARED], RandomCorpus(), "step", CPU, open_store(store), on_step)


def test_a_trial_learns_with_it_and_resumes_to_the_bit(tmp_path: Path) -> None:
    on_ranks(1, _train, str(tmp_path / "whole"), None)
    with pytest.raises(Exception, match="exit code 9"):
        on_ranks(1, _train, str(tmp_path / "killed"), 5)
    on_ranks(1, _train, str(tmp_path / "killed"), None)
    losses = _losses(tmp_path / "whole")
    assert losses == _losses(tmp_path / "killed")
    (row,) = open_store(str(tmp_path / "killed")).read("trials", "small").to_pylist()
    assert row["resumes"] == 1
    np.testing.assert_allclose(losses, _plain_muon(), atol=1e-4)  # in bf16 Muon makes much of a rounding
    study = small_study()
    assert abs(np.subtract(losses, _plain(expand(study).trials[SHARED], study.training))).max() > 1e-3


def _plain_muon() -> list[float]:
    """The same trial with torch's two optimizers side by side, without DeepSpeed."""
    study = small_study(**MUON)
    trial, training, rows = expand(study).trials[SHARED], study.training, RandomRows()
    model = Decoder(trial.arm.shape, trial.arm.sharing).initialise(trial.seed)
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if "_blocks." in name and p.dim() == 2]
    gains = [p for p in named.values() if p.dim() == 1]
    optimizers = [
        torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([{"params": [model.embedding], "weight_decay": 0.1}], betas=(0.9, 0.95)),
        torch.optim.AdamW(gains, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    losses = []
    for step in range(training.steps):
        batch = torch.from_numpy(rows.batch(step_rows(len(rows), 8, trial.seed, step)))
        loss = torch.nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, step)
            optimizer.step()
        losses.append(loss.item())
    return losses
