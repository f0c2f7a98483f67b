"""Compiled and graphed training on a GPU against plain torch on the CPU, and against itself to the bit."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharelm.machine import Machine
from sharelm.store import open_store
from sharelm.study import Study, expand
from sharelm.study.load import study_from_tree
from sharelm.training.trial import train_trial
from tests.sharelm.distributed import on_ranks
from tests.sharelm.small import TREE, RandomCorpus
from tests.sharelm.test_training import _plain

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

VARIANTS: list[dict[str, Any]] = [
    {"name": "cycle", "scheme": "cycle", "blocks": 2},
    {"name": "relaxed", "scheme": "relaxed", "blocks": 2, "rank": 3},
    {"name": "atoms", "scheme": "atoms", "blocks": 2},
    {"name": "late", "scheme": "late_loop", "first": 1, "last": 1},
    {"name": "huginn", "scheme": "huginn", "prelude": 1, "core": 1, "coda": 1},
]
WAYS: dict[str, dict[str, Any]] = {
    "one-pass": {},
    "two-passes": {"sequences_per_pass": 4},
    "recomputed": {"activation_checkpointing": "non_reentrant"},
    "fast": {"fast": True},
    "stage-1": {"zero_stage": 1},
    "stage-2": {"zero_stage": 2, "sequences_per_pass": 2},
    "stage-2-offloaded": {"zero_stage": 2, "offload_optimizer": True},
    "stage-3": {"zero_stage": 3},
}
WIDE = {**TREE["model"], "width": 64}  # heads wide enough for the attention that bf16 trains with


def _study(precision: str, **training: Any) -> Study:
    settings = {**TREE["training"], "device": "gpu", "precision": precision, **training}
    variants = [each for each in VARIANTS if each["scheme"] != "late_loop" or settings["zero_stage"] < 3]
    model = WIDE if precision == "bf16" else TREE["model"]
    return study_from_tree({**TREE, "model": model, "variant": variants, "training": settings}, "small.toml")


def _quiet(*_: object) -> None:
    pass


def _train(store: str, study: Study, names: list[str], die_at: int | None = None) -> None:
    def on_step(trial: str, step: int, *_: float) -> None:
        if step == die_at:
            os._exit(9)

    machine = Machine("cuda", study.training.precision, "test")
    for trial in expand(study).trials:
        if trial.arm.name in names:
            train_trial(study, trial, RandomCorpus(), trial.name, machine, open_store(store), on_step)


def _losses(store: Path | str) -> dict[str, list[float]]:
    rows = open_store(str(store)).read("steps", "small").to_pylist()
    return {name: [row["loss_nats"] for row in rows if row["arm"] == name] for name in {row["arm"] for row in rows}}


def _every_way(folder: str) -> None:
    names = [variant["name"] for variant in VARIANTS]
    for way, training in WAYS.items():
        _train(f"{folder}/{way}", _study("fp32", **training), names if way == "one-pass" else names[:1])


def test_every_way_of_training_equals_plain_torch_on_the_cpu(tmp_path: Path) -> None:
    on_ranks(1, _every_way, str(tmp_path), backend="nccl")
    study = _study("fp32")
    plain = {
        trial.arm.name: _plain(trial, study.training) for trial in expand(study).trials if trial.arm.role == "variant"
    }
    for way in WAYS:
        for name, losses in _losses(tmp_path / way).items():
            np.testing.assert_allclose(losses, plain[name], atol=2e-5, err_msg=f"{name}, {way}")


RANDOM = {"dropout": 0.2, "stochastic_depth": 0.3, "checkpoint_steps": 2}


def _bits(folder: str, name: str, die_at: int | None) -> None:
    _train(f"{folder}/{name}", _study("bf16", **RANDOM), ["relaxed", "atoms"], die_at)


def test_bits_are_the_same_alone_and_packed_and_through_a_kill(tmp_path: Path) -> None:
    on_ranks(1, _bits, str(tmp_path), "one", None, backend="nccl")
    with ThreadPoolExecutor(2) as pool:  # both on one GPU at once
        killed = pool.submit(on_ranks, 1, _bits, str(tmp_path), "killed", 5, backend="nccl")
        pool.submit(on_ranks, 1, _bits, str(tmp_path), "other", None, backend="nccl").result()
        assert "exit code 9" in str(killed.exception())
    on_ranks(1, _bits, str(tmp_path), "killed", None, backend="nccl")
    assert _losses(tmp_path / "one") == _losses(tmp_path / "other") == _losses(tmp_path / "killed")
    resumed = {
        row["arm"]: row["resumes"] for row in open_store(str(tmp_path / "killed")).read("trials", "small").to_pylist()
    }
    assert resumed["relaxed"] == 1


def _two(folder: str, stage: int) -> None:
    _train(f"{folder}/{stage}", _study("fp32", workers=2, zero_stage=stage), ["cycle"])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_two_gpus_equal_plain_torch(stage: int, tmp_path: Path) -> None:
    on_ranks(2, _two, str(tmp_path), stage, backend="nccl")
    study = _study("fp32")
    (plain,) = (_plain(trial, study.training) for trial in expand(study).trials if trial.arm.name == "cycle")
    np.testing.assert_allclose(_losses(tmp_path / str(stage))["cycle"], plain, atol=2e-5)
