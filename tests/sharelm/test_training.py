"""Training against plain torch, on one, two and four ranks, at every ZeRO stage offered, and through a kill."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from sharelm.artefact import WEIGHTS
from sharelm.machine import Machine
from sharelm.model import Decoder, load_model
from sharelm.model.depths import Depths
from sharelm.steps import trial_step
from sharelm.store import open_store
from sharelm.study import Study, Trial, expand
from sharelm.study.load import study_from_tree
from sharelm.study.training import Training
from sharelm.training.engine import build_optimizer
from sharelm.training.order import step_rows, worker_rows
from sharelm.training.rate import learning_rate
from sharelm.training.reshard import Piece, recut
from sharelm.training.run import Figures, Run
from sharelm.training.stability import stability
from sharelm.training.trial import train_trial
from tests.sharelm.distributed import on_ranks
from tests.sharelm.small import TREE, RandomCorpus, RandomRows, small_study

CPU = Machine("cpu", "fp32", "test")
SHARED = 1  # the cycle; 0 is the independent reference


def _quiet(*_: object) -> None:
    pass


def _train(store: str, training: dict[str, object], die_at: int | None = None) -> None:
    study = small_study(**training)

    def on_step(trial: str, step: int, *_: float) -> None:
        if step == die_at:
            while [m.step[-1] for m in open_store(store).manifests("checkpoints", "small")] != [str(step - 1)]:
                time.sleep(0.01)  # it is written beside training
            os._exit(9)

    train_trial(study, expand(study).trials[SHARED], RandomCorpus(), "step", CPU, open_store(store), on_step)


def _losses(store: Path | str) -> list[float]:
    return open_store(str(store)).read("steps", "small")["loss_nats"].to_pylist()


@pytest.fixture(scope="module")
def plain_losses() -> list[float]:
    study = small_study()
    return _plain(expand(study).trials[SHARED], study.training)


def _plain(
    trial: Trial, training: Training, factors: Sequence[float] | None = None, model: Decoder | None = None
) -> list[float]:
    """The same trial in plain torch: no DeepSpeed, no Ray, one process; rates times `factors`, one a step.

    Trains `model` if one is given.
    """
    rows = RandomRows()
    model = Decoder(trial.arm.shape, trial.arm.sharing) if model is None else model
    model.initialise(trial.seed)
    optimizer = build_optimizer(model, training, torch.device("cpu"))
    losses = []
    for step in range(training.steps):
        model.looping = step >= round(trial.arm.sharing.late * training.steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, step) * (factors[step] if factors else 1)
        batch = torch.from_numpy(rows.batch(step_rows(len(rows), 8, trial.seed, step)))
        logits = model(batch[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def _compute_study() -> Study:
    return study_from_tree({**TREE, "twins": {"axes": ["depth", "parameters", "compute"]}}, "small.toml")


def _train_compute_twin(store: str, name: str) -> None:
    study = _compute_study()
    (trial,) = [trial for trial in expand(study).trials if trial.name == name]
    train_trial(study, trial, RandomCorpus(), "step", CPU, open_store(store), _quiet)


def test_a_compute_twin_trains_its_own_steps_on_its_own_schedule(tmp_path: Path) -> None:
    """Held against plain torch with a schedule written for that many steps; the study's own says 6."""
    study = _compute_study()
    (pair,) = [pair for pair in expand(study).comparisons if pair.axis == "compute"]
    (trial,) = [trial for trial in expand(study).trials if trial.arm.name == pair.twin]
    on_ranks(1, _train_compute_twin, str(tmp_path), trial.name)
    flops = {arm.name: arm.footprint.training_flops_per_token for arm in expand(study).arms}
    steps = round(6 * flops["cycle"] / flops[pair.twin])
    assert 6 < steps < 12
    longer = small_study(tokens=16 * 8 * steps).training
    np.testing.assert_allclose(_losses(tmp_path), _plain(trial, longer), atol=1e-5)
    store = open_store(str(tmp_path))
    rates = store.read("steps", "small")["learning_rate"].to_pylist()
    assert rates[-1] == pytest.approx(0.1 * longer.learning_rate)
    assert rates[5] > 2 * rates[-1]  # where the others have ended
    (row,) = store.read("trials", "small").to_pylist()
    assert (row["steps"], row["tokens"]) == (steps, 128 * steps)
    assert row["epochs"] == pytest.approx(8 * steps / 40)  # 8 rows a step of 40
    assert json.loads(row["resolved_json"])["training"]["tokens"] == 128 * steps


def _train_several(folder: str, settings: dict[str, dict[str, object]]) -> None:
    for name, training in settings.items():
        _train(f"{folder}/{name}", training)


def _train_at_stages(folder: str) -> None:
    for stage in (0, 3):
        study = _late_study().decided(
            zero_stage=stage
        )  # a study refuses late loops at stage 3; the engine does not get them wrong
        train_trial(
            study, expand(study).trials[SHARED], RandomCorpus(), "step", CPU, open_store(f"{folder}/{stage}"), _quiet
        )


def _late_study() -> Study:
    late = {"name": "late", "scheme": "late_loop", "first": 1, "last": 1, "norms": "per_depth", "injection": "linear"}
    return study_from_tree({**TREE, "variant": [late], "training": {**TREE["training"], "workers": 2}}, "small.toml")


def test_weights_scattered_over_workers_are_committed_whole(tmp_path: Path) -> None:
    """Also those of a late loop, half of whose parameters wait for it: ZeRO-3 is known to go wrong there."""
    on_ranks(2, _train_at_stages, str(tmp_path))
    study = _late_study()
    trial, trained = expand(study).trials[SHARED], Decoder(*expand(study).trials[SHARED].arm.model)
    losses = _plain(trial, study.training, model=trained)
    for stage in (0, 3):
        store = open_store(str(tmp_path / str(stage)))
        (manifest,) = store.manifests("models", "small")
        found = load_model(store.fetch(manifest, "weights.safetensors")).state_dict()
        assert found.keys() == trained.state_dict().keys()
        for name, weight in trained.state_dict().items():
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-4, msg=f"{name} at ZeRO {stage}")
        np.testing.assert_allclose(_losses(tmp_path / str(stage)), losses, atol=1e-5)


def _leave_parameters_unused(folder: str) -> None:
    Depths._zero_from_unused = lambda *_: torch.zeros(())  # type: ignore[method-assign]  # in a process of its own
    study = _late_study().decided(zero_stage=3)
    train_trial(study, expand(study).trials[SHARED], RandomCorpus(), "step", CPU, open_store(folder), _quiet)


def test_a_parameter_that_a_step_does_not_use_is_refused_at_stage_3(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"apply an old gradient to \w+.*, which this step does not use"):
        on_ranks(2, _leave_parameters_unused, str(tmp_path))


CHECKPOINTING: dict[str, object] = {"activation_checkpointing": "non_reentrant"}
OFFLOAD: dict[str, object] = {"offload_optimizer": True}
SETTINGS: dict[int, dict[str, dict[str, object]]] = {
    1: {
        "stage0": {"zero_stage": 0},
        "stage1": {"zero_stage": 1, "sequences_per_pass": 2},
        "packed": {"trials_per_gpu": 4},
    },
    2: {
        "stage0": {"zero_stage": 0, "workers": 2},
        "stage1": {"zero_stage": 1, "workers": 2},
        "stage2": {"zero_stage": 2, "workers": 2},
        "stage1-recomputed": {"zero_stage": 1, "workers": 2, **CHECKPOINTING},
        "stage3": {"zero_stage": 3, "workers": 2},
        **{f"stage{stage}-offloaded": {"zero_stage": stage, "workers": 2, **OFFLOAD} for stage in (1, 2, 3)},
        "stage2-recomputed-in-parts": {"zero_stage": 2, "workers": 2, "sequences_per_pass": 2, **CHECKPOINTING},
    },
    4: {"stage1": {"zero_stage": 1, "workers": 4}, "stage2": {"zero_stage": 2, "sequences_per_pass": 1, "workers": 4}},
}


@pytest.mark.parametrize("world", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_workers_equals_plain_torch(tmp_path: Path, plain_losses: list[float], world: int) -> None:
    on_ranks(world, _train_several, str(tmp_path), SETTINGS[world])
    for name in SETTINGS[world]:
        np.testing.assert_allclose(_losses(tmp_path / name), plain_losses, atol=1e-5, err_msg=name)
        (row,) = open_store(str(tmp_path / name)).read("trials", "small").to_pylist()  # a device costs 1.0 an hour
        assert row["training_cost"] == pytest.approx(
            row["training_seconds"] / 3600 * world / (1 + 3 * (name == "packed"))
        )


def test_killed_trials_resume_to_the_same_bits(tmp_path: Path) -> None:
    settings = {name: SETTINGS[2][name] for name in ("stage0", "stage1", "stage2", "stage3", "stage2-offloaded")}
    settings["masked"] = {**SETTINGS[2]["stage1"], "dropout": 0.1, "stochastic_depth": 0.2}
    on_ranks(2, _train_several, str(tmp_path / "whole"), settings)
    for name, training in settings.items():
        with pytest.raises(Exception, match="exit code 9"):
            on_ranks(2, _train, str(tmp_path / "killed" / name), training, 5)
        killed = open_store(str(tmp_path / "killed" / name))
        assert killed.read("steps", "small").num_rows == 0
        assert [m.step[-1] for m in killed.manifests("checkpoints", "small")] == ["4"]
    on_ranks(2, _train_several, str(tmp_path / "killed"), settings)
    for name in settings:
        resumed = open_store(str(tmp_path / "killed" / name))
        assert _losses(tmp_path / "killed" / name) == _losses(tmp_path / "whole" / name)
        row = resumed.read("trials", "small").to_pylist()[0]
        assert (row["resumes"], row["status"]) == (1, "done")
        assert resumed.manifests("checkpoints", "small") == []
    assert _losses(tmp_path / "whole" / "masked") != _losses(tmp_path / "whole" / "stage1")


STAGES: dict[str, dict[str, object]] = {f"stage{stage}": {"zero_stage": stage} for stage in (0, 1, 2, 3)}
STAGES["stage2-offloaded"] = {"zero_stage": 2, **OFFLOAD}


def _train_and_stop(folder: str) -> None:
    """Every stage twice: to its end, and until all workers are stopped in the fifth step."""
    _train_several(f"{folder}/whole", STAGES)
    step = Run.step

    def stopping(run: Run, number: int) -> Figures:
        if number == 4:
            raise InterruptedError
        return step(run, number)

    Run.step = stopping  # type: ignore[method-assign]  # in a process of its own
    for name, training in STAGES.items():
        with pytest.raises(InterruptedError):
            _train(f"{folder}/killed/{name}", training)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_stopped_trial_goes_on_with_another_number_of_workers(tmp_path: Path, before: int, after: int) -> None:
    """Held against a run that nothing disturbed."""
    on_ranks(before, _train_and_stop, str(tmp_path))
    for name in STAGES:
        stopped = open_store(str(tmp_path / "killed" / name))
        assert [(m.step[-1], m.facts["world"]) for m in stopped.manifests("checkpoints", "small")] == [("4", before)]
    on_ranks(after, _train_several, str(tmp_path / "killed"), STAGES)
    for name in STAGES:
        resumed = open_store(str(tmp_path / "killed" / name))
        np.testing.assert_allclose(
            _losses(tmp_path / "killed" / name), _losses(tmp_path / "whole" / name), rtol=0, atol=1e-6, err_msg=name
        )
        row = resumed.read("trials", "small").to_pylist()[0]
        assert (row["resumes"], row["workers"]) == (1, after)
        np.testing.assert_allclose(
            *(_weights(tmp_path / how / name) for how in ("killed", "whole")), rtol=0, atol=1e-6, err_msg=name
        )


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
def test_parts_cut_anew_are_those_of_the_whole(numels: list[int], writers: int, world: int, more: int) -> None:
    """A vector of pieces, each padded by itself (some by more than they need to be), as every worker would have it."""

    def cut(workers: int, more: int) -> tuple[list[int], list[torch.Tensor]]:
        parts = [-(-numel // workers) + more for numel in numels]
        padded = [
            torch.nn.functional.pad(whole, (0, part * workers - len(whole))).chunk(workers)
            for whole, part in zip(pieces, parts, strict=True)
        ]
        return parts, [torch.cat([piece[rank] for piece in padded]) for rank in range(workers)]

    pieces = [torch.arange(1.0, numel + 1) * (i + 1) for i, numel in enumerate(numels)]
    (written, shards), (wanted, expected) = cut(writers, more), cut(world, 0)
    sizes = [Piece(*each) for each in zip(numels, written, wanted, strict=True)]
    for rank in range(world):
        assert torch.equal(recut(shards, sizes, rank, world), expected[rank])


def _weights(store: Path) -> np.ndarray:
    opened = open_store(str(store))
    (manifest,) = opened.manifests("models", "small")
    tensors = load_file(opened.fetch(manifest, WEIGHTS))
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def test_diverged_trial_is_said_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    on_ranks(1, _train, str(tmp_path), {"learning_rate": 1e30, "gradient_clip": 0.0, "checkpoint_steps": 1})
    store = open_store(str(tmp_path))
    row = store.read("trials", "small").to_pylist()[0]
    assert row["status"] == "diverged"
    assert "cycle.s0 diverged at step" in row["error"]
    assert "learning_rate" in row["error"]
    assert row["nonfinite_steps"] == 1
    assert store.manifests("models", "small") == []
    assert len(store.manifests("checkpoints", "small")) == 1


def _train_with_infinite_gradients(
    store: str, training: dict[str, object], at: int | None = None, die_at: int | None = None
) -> None:
    """Every gradient of the embedding infinite, or only that of one of the passes of this process."""
    initialise = Decoder.initialise
    passes = itertools.count(1)

    def planted(model: Decoder, seed: int) -> Decoder:
        initialise(model, seed).embedding.register_hook(
            lambda gradient: gradient * float("inf") if next(passes) == at or at is None else gradient
        )
        return model

    Decoder.initialise = planted  # type: ignore[method-assign]  # in a process of its own
    _train(store, training, die_at)


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_a_gradient_that_is_not_finite_is_said_at_its_step(zero_stage: int, tmp_path: Path) -> None:
    on_ranks(1, _train_with_infinite_gradients, str(tmp_path), {"zero_stage": zero_stage})
    (row,) = open_store(str(tmp_path)).read("trials", "small").to_pylist()
    assert (row["status"], row["steps"], row["nonfinite_steps"]) == ("diverged", 1, 1)
    assert np.isfinite(row["final_loss_nats"])


HALVE: dict[str, object] = {"on_divergence": "halve_learning_rate"}


def _halved(store: Path) -> tuple[object, ...]:
    (row,) = open_store(str(store)).read("trials", "small").to_pylist()
    return row["status"], row["steps"], row["learning_rate_halvings"], row["resumes"], row["nonfinite_steps"]


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_a_run_goes_back_to_its_last_good_checkpoint_at_half_the_rate(zero_stage: int, tmp_path: Path) -> None:
    """Bad in step 4, back to the checkpoint after step 2; the halving outlives a kill. Held against plain torch."""
    training = {"zero_stage": zero_stage, **HALVE}
    with pytest.raises(Exception, match="exit code 9"):
        on_ranks(1, _train_with_infinite_gradients, str(tmp_path), training, 4, 5)
    on_ranks(1, _train, str(tmp_path), training)
    assert _halved(tmp_path) == ("done", 6, 1, 2, 0)
    factors = [1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    study = small_study(**training)
    np.testing.assert_allclose(
        _losses(tmp_path), _plain(expand(study).trials[SHARED], study.training, factors), rtol=0, atol=1e-5
    )
    rates = open_store(str(tmp_path)).read("steps", "small")["learning_rate"].to_pylist()
    assert rates == [learning_rate(study.training, step) * factor for step, factor in enumerate(factors)]


def test_a_checkpoint_right_before_a_bad_step_is_not_good(tmp_path: Path) -> None:
    on_ranks(1, _train_with_infinite_gradients, str(tmp_path), HALVE, 3)
    assert _halved(tmp_path) == ("done", 6, 1, 0, 0)
    study = small_study()
    expected = _plain(expand(study).trials[SHARED], study.training, [0.5] * 6)
    np.testing.assert_allclose(_losses(tmp_path), expected, rtol=0, atol=1e-5)


def test_a_run_that_stays_bad_is_halved_three_times(tmp_path: Path) -> None:
    on_ranks(1, _train_with_infinite_gradients, str(tmp_path), HALVE)
    assert _halved(tmp_path) == ("diverged", 1, 3, 0, 1)
    (row,) = open_store(str(tmp_path)).read("trials", "small").to_pylist()
    assert row["error"].endswith("than 0.01 may help (it was halved 3 times)")


def test_what_names_a_trial() -> None:
    def name(**training: object) -> str:
        study = small_study(**training)
        return trial_step(study, expand(study).trials[SHARED], "data", CPU)

    assert name() == name(workers=2, checkpoint_steps=5, sequences_per_pass=4)
    assert name() != name(learning_rate=2e-2)
    assert name() != name(zero_stage=2)
    assert name() != name(**HALVE)
    study = small_study()
    steps = {trial_step(study, trial, data, CPU) for trial in expand(study).trials for data in ("data", "other")}
    assert len(steps) == 2 * len(expand(study).trials)


@given(st.integers(1, 60), st.integers(1, 4), st.sampled_from([1, 2, 4]), st.integers(0, 5), st.integers(0, 30))
def test_order_covers_every_row_once_an_epoch(rows: int, share: int, world: int, seed: int, step: int) -> None:
    sequences = share * world
    seen = np.concatenate([step_rows(rows, sequences, seed, i) for i in range(step + rows)])
    for epoch in range(len(seen) // rows):
        assert sorted(seen[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    whole = step_rows(rows, sequences, seed, step)
    np.testing.assert_array_equal(np.concatenate([worker_rows(whole, rank, world) for rank in range(world)]), whole)


@given(st.integers(8, 200), st.integers(0, 4), st.sampled_from(["cosine", "warmup_stable_decay"]), st.floats(0, 1))
def test_rate_warms_up_holds_and_ends_at_the_floor(steps: int, warmup: int, schedule: str, floor: float) -> None:
    training = small_study(
        tokens=128 * steps, warmup_steps=warmup, learning_rate_schedule=schedule, final_learning_rate_fraction=floor
    ).training
    rates = [learning_rate(training, step) for step in range(steps)]
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert max(rates) == pytest.approx(training.learning_rate)
    assert rates[-1] == pytest.approx(floor * training.learning_rate)


def test_stability_of_a_planted_run() -> None:
    losses = [5.0 - 0.01 * i for i in range(100)]
    losses[50] = 11.0
    found = stability(losses, [1.0] * 99 + [3.0], spike_factor=2.0)
    assert found.loss_spikes == 1
    assert found.nonfinite_steps == 0
    assert (found.gradient_norm_p50, found.gradient_norm_max) == (1.0, 3.0)
    assert found.final_loss_nats == pytest.approx(np.mean(losses[-5:]))
    assert stability([1.0, float("nan")], [1.0, 2.0], 2.0).nonfinite_steps == 1


def test_no_operator_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no compiler on the path and an empty extension folder, training runs and nothing is built."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    on_ranks(1, _train, str(tmp_path / "store"), {})
    assert len(_losses(tmp_path / "store")) == 6
    assert not (tmp_path / "extensions").exists()
