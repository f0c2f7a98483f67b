"""The measured speeds that the time axis rests on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sharelm.machine import Machine
from sharelm.steps import speed_step
from sharelm.store import open_store
from sharelm.study import Study, timed_pairs
from sharelm.study.load import study_from_tree
from sharelm.training import speed
from tests.sharelm.distributed import on_ranks
from tests.sharelm.small import TREE, RandomCorpus

CPU = Machine("cpu", "fp32", "test")


def _study(depth: int = 12, **training: Any) -> Study:
    tree = {
        **TREE,
        "model": {**TREE["model"], "depth": depth},
        "variant": [{"name": "albert", "scheme": "albert"}],
        "twins": {"axes": ["depth", "time"]},
        "training": {**TREE["training"], **training},
    }
    return study_from_tree(tree, "small.toml")


def _measure(store: str, workers: int) -> None:
    study = _study(workers=workers)
    (pair,) = timed_pairs(study)
    for _ in range(2):  # the second finds the figures of the first
        speed.measure_speeds(study, pair, RandomCorpus(), "step", CPU, open_store(store))


def test_both_arms_are_timed_once_and_nothing_else_is_left(tmp_path: Path) -> None:
    on_ranks(1, _measure, str(tmp_path), 1)
    store = open_store(str(tmp_path))
    (found,) = store.manifests(speed.SPEEDS, "small")
    assert found.step == "step"
    facts = found.facts
    assert (facts["variant"], facts["twin_like"], facts["workers"]) == ("albert", "independent-L1", 1)
    assert facts["twin_tokens_per_second"] > 1.5 * facts["variant_tokens_per_second"] > 0  # 1 depth against 12
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unfinished", "speeds"]


class _Clock:
    """Time that passes only in training steps, at a planted number of seconds a step of each arm."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.now, self.seconds, self.built = 0.0, seconds, []

    def run(self, study: Study, trial: Any, *_: Any) -> Any:
        clock, taken = self, []
        self.built.append(trial.arm.name)

        class Run:
            training = trial.arm.training(study.training)

            def step(self, step: int) -> Any:
                assert step < self.training.steps
                taken.append(step)
                first = len(taken) <= speed.WARM_UP_STEPS
                clock.now += 100.0 if first else clock.seconds[trial.arm.name] * len(clock.built)
                return SimpleNamespace(read=lambda: (0.0, 0.0))

            def close(self) -> None:
                pass

        return Run()


def test_the_warm_up_does_not_count_and_a_drift_weighs_on_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = _study()
    (pair,) = timed_pairs(study)
    clock = _Clock({"albert": 3.0, "independent-L1": 1.5})  # in the first round; each round is slower by as much again
    monkeypatch.setattr(speed, "Run", clock.run)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(speed, "committed", lambda *_: False)
    for name, value in (("get_rank", 0), ("get_world_size", 1), ("barrier", None)):
        monkeypatch.setattr(speed.dist, name, lambda value=value: value)
    store = open_store(str(tmp_path))
    speed.measure_speeds(study, pair, RandomCorpus(), "step", CPU, store)
    assert clock.built == ["albert", "independent-L1", "independent-L1", "albert"]
    (found,) = store.manifests(speed.SPEEDS, "small")
    assert found.facts["variant_tokens_per_second"] == pytest.approx(128 / (3.0 * 2.5))  # rounds 1 and 4
    assert found.facts["twin_tokens_per_second"] == pytest.approx(128 / (1.5 * 2.5))  # rounds 2 and 3


def test_speeds_are_named_by_what_is_timed_and_where() -> None:
    def name(machine: Machine = CPU, depth: int = 12, **training: Any) -> str:
        study = _study(depth, **training)
        (pair,) = timed_pairs(study)
        return speed_step(study, pair, machine)

    assert name() == name(workers=2, checkpoint_steps=5, sequences_per_pass=4)  # or the twin's trials would change
    assert len({name(), name(Machine("cpu", "fp32", "another")), name(depth=8), name(zero_stage=2)}) == 4
