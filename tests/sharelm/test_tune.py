"""Learning rates of each arm's own: the choice against closed forms, and what proxies are and find."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sharelm.machine import Machine
from sharelm.steps import proxy_step, trial_step
from sharelm.store import open_store
from sharelm.study import Measured, Plan, Speeds, Study, Tried, expand, proxied, proxies, tuning
from sharelm.study.growth import changes
from sharelm.study.load import study_from_tree
from sharelm.study.proxies import tuning_rows
from sharelm.training.trial import train_trial
from sharelm.training.tune import PROXIES, train_proxy
from tests.sharelm.distributed import on_ranks
from tests.sharelm.small import TREE, RandomCorpus

CPU = Machine("cpu", "fp32", "test")
RATES = [1e-3, 1e-2, 100.0]
AXES = ["depth", "parameters", "compute", "memory", "time"]


def study_of(seeds: tuple[int, ...] = (0,), tune: dict[str, Any] | None = None, **training: Any) -> Study:
    node = {"learning_rates": RATES, "tokens": 128 * 3, **(tune or {})}
    tree = {
        **TREE,
        "study": {"name": "small", "seeds": list(seeds)},
        "twins": {"axes": AXES, "ladder": [3]},
        "training": {**TREE["training"], "tune": node, **training},
    }
    return study_from_tree(tree, "small.toml")


def tries(rates: list[float], losses: list[float | None]) -> list[Tried]:
    return [Tried(rate, loss, 1.0) for rate, loss in zip(rates, losses, strict=True)]


def chosen(choose: str, rates: list[float], losses: list[float | None]) -> tuple[float, bool]:
    found = tuning(choose, tries(rates, losses))
    return found.learning_rate, found.at_edge


@pytest.mark.parametrize("rates", [[1e-4, 3e-4, 1e-3, 3e-3], [2e-4, 5e-4, 6e-4, 9e-3]])
@pytest.mark.parametrize("peak", [3.2e-4, 4.17e-4, 5e-4])
def test_a_planted_parabola_gives_its_vertex(rates: list[float], peak: float) -> None:
    losses: list[float | None] = [3.0 + 0.7 * (math.log(rate) - math.log(peak)) ** 2 for rate in rates]
    assert chosen("parabola", rates, losses) == (pytest.approx(peak, rel=5e-3), False)
    nearest = min(rates, key=lambda rate: abs(math.log(rate / peak)))
    assert chosen("grid", rates, losses) == (nearest, False)


exponents = st.lists(st.integers(-60, 20), min_size=3, max_size=7, unique=True).map(sorted)
levels = st.one_of(st.none(), st.integers(0, 1000))


@given(exponents, st.data())
def test_a_choice_lies_among_the_rates_and_knows_no_constant(powers: list[int], data: st.DataObject) -> None:
    rates = [2.0**power for power in powers]
    losses = data.draw(st.lists(levels, min_size=len(rates), max_size=len(rates)))
    shift = data.draw(st.integers(0, 1000))
    shuffled = data.draw(st.permutations(tries(rates, losses)))
    for choose in ("grid", "parabola"):
        found = tuning(choose, shuffled)
        assert rates[0] <= found.learning_rate <= rates[-1]
        assert found.at_edge == (found.learning_rate in (rates[0], rates[-1]))
        moved = [None if loss is None else loss + shift for loss in losses]
        assert chosen(choose, rates, moved) == (found.learning_rate, found.at_edge)
    if any(loss is not None for loss in losses):
        lowest = min(loss for loss in losses if loss is not None)
        assert losses[rates.index(chosen("grid", rates, losses)[0])] == lowest


@given(st.lists(st.floats(-9, 0), min_size=3, max_size=3, unique=True), st.floats(0.1, 5), st.floats(0.1, 5))
def test_three_points_agree_with_numpys_parabola(logs: list[float], left: float, right: float) -> None:
    low, middle, high = sorted(logs)
    assume(min(middle - low, high - middle) > 0.1)
    rates = [math.exp(value) for value in (low, middle, high)]
    a, b, _ = np.polyfit([low, middle, high], [left, 0.0, right], 2)
    assert chosen("parabola", rates, [left, 0.0, right])[0] == pytest.approx(math.exp(-b / 2 / a), rel=6e-3)


@pytest.mark.parametrize("choose", ["grid", "parabola"])
@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([3.0, 2.0, None, 1.0], (4.0, True)),
        ([1.0, 2.0, 3.0, 4.0], (1.0, True)),
        ([2.0, 1.0, None, None], (2.0, False)),  # no parabola through a proxy that diverged
        ([1.0, 1.0, 1.0, 1.0], (1.0, True)),  # of equal ones the lower
        ([None, None, None, None], (1.0, True)),
    ],
)
def test_edges_ties_and_divergence(choose: str, losses: list[float | None], expected: tuple[float, bool]) -> None:
    assert chosen(choose, [1.0, 2.0, 3.0, 4.0], losses) == expected


def test_every_model_has_the_same_budget_and_arms_of_one_model_share_it() -> None:
    study = study_of()
    before = proxies(expand(study))
    measured = expand(study, Measured({"cycle": Speeds(1.0, 9.0)}))
    every = measured.arms
    assert (len({arm.model for arm in every}), len(every)) == (
        5,
        7,
    )  # twins of parameters, compute and time are one model
    assert proxies(measured) == before  # a time twin's tokens are no part of it
    budget = {
        model: [p.arm.learning_rate for p in before if p.arm.model == model] for model in {a.model for a in every}
    }
    assert all(rates == RATES for rates in budget.values())
    assert len(before) == len(RATES) * len(budget)
    assert {(proxy.seed, proxy.arm.tokens) for proxy in before} == {(0, 384)}
    assert proxies(expand(study_of(tune={"learning_rates": [100.0, 1e-2, 1e-3]}))) == before


@pytest.mark.parametrize(
    ("warmup", "steps", "tokens", "expected"),
    [(20, 100, 10, 2), (2, 6, 3, 1), (5, 6, 2, 1), (0, 6, 3, 0), (1, 100, 9, 1)],
)
def test_a_proxy_warms_up_for_the_same_share_of_its_own_steps(
    warmup: int, steps: int, tokens: int, expected: int
) -> None:
    study = study_of(tune={"tokens": 128 * tokens}, warmup_steps=warmup, tokens=128 * steps)
    short = proxies(expand(study))[0].arm.training(proxied(study).training)
    assert (short.steps, short.warmup_steps) == (tokens, expected)
    assert short.warmup_steps < short.steps
    assert study.training.warmup_steps == warmup


def test_what_names_a_proxy() -> None:
    def name(study: Study, index: int = 0, data: str = "data") -> str:
        return proxy_step(study, proxies(expand(study))[index], data, CPU)

    study = study_of()
    same = [study_of(workers=2, checkpoint_steps=5), study_of(tune={"choose": "parabola"}), study_of(seeds=(0, 1))]
    assert {name(other) for other in same} == {name(study)}
    names = {name(study, index) for index in range(len(proxies(expand(study))))}
    assert len(names) == len(proxies(expand(study)))
    others = [study_of(seeds=(1, 0)), study_of(tune={"tokens": 256}), study_of(weight_decay=0.2)]
    assert not {name(other) for other in others} & names
    assert name(study, data="other") not in names


def test_a_chosen_rate_is_the_arms_own_and_all_that_a_trial_knows_of_tuning() -> None:
    study = study_of()
    found = {arm.model: tuning("grid", tries(RATES, [3.0, 2.0, 1.0])) for arm in expand(study).arms}
    cycle = next(arm for arm in expand(study).arms if arm.name == "cycle")
    found[cycle.model] = tuning("grid", tries(RATES, [1.0, 2.0, None]))
    tuned = expand(study, Measured(tunings=found))
    rates = {arm.name: arm.training(study.training).learning_rate for arm in tuned.arms}
    assert rates.pop("cycle") == 1e-3
    assert set(rates.values()) == {100.0}
    assert [arm.name for arm in tuned.arms] == [arm.name for arm in expand(study).arms]

    def names(plan: Plan) -> dict[str, str]:
        return {trial.name: trial_step(plan.study, trial, "data", CPU) for trial in plan.trials}

    tree = study.tree()
    tree["training"] |= {"learning_rate": 1e-3, "tune": None}
    untuned = study_from_tree(tree, "untuned")
    assert names(expand(untuned))["cycle.s0"] == names(tuned)["cycle.s0"] != names(expand(study))["cycle.s0"]
    rows = tuning_rows(tuned)
    assert tuning_rows(expand(study)) == []
    assert {row["chosen_learning_rate"] for row in rows if row["arm"] == "cycle"} == {1e-3}
    assert [(row["status"], row["loss_nats"]) for row in rows if row["arm"] == "cycle"] == [
        ("done", 1.0), ("done", 2.0), ("diverged", None),
    ]  # fmt: skip


def test_a_tuned_study_keeps_its_rates_and_its_first_seed() -> None:
    old = study_of().tree()
    assert changes(old, study_of(seeds=(0, 7)).tree()) == []
    assert changes(old, study_of(seeds=(7, 0)).tree()) == [
        "0 as the first of study.seeds, which training.tune takes, now 7"
    ]
    (changed,) = changes(old, study_of(tune={"learning_rates": [1e-3, 1e-2, 1.0]}).tree())
    assert changed.startswith("training.tune.learning_rates = ")
    (changed,) = changes({**old, "training": {**old["training"], "tune": None}}, old)
    assert changed.startswith("training.tune not set, now ")


LONG = {"tokens": 128 * 40, "warmup_steps": 4}
NODE = {"learning_rates": [1e-4, 1e-2, 10.0, 1e30], "tokens": 128 * 20}


def _find_rates(store: str, whole: str) -> None:
    study, seen = study_of(tune=NODE, **LONG), []

    def on_step(name: str, *_: Any) -> None:
        seen.append(name)

    cycle = [proxy for proxy in proxies(expand(study)) if proxy.arm.name.startswith("cycle-")]
    for proxy in cycle:
        train_proxy(study, proxy, RandomCorpus(), proxy.name.replace("+", "_"), CPU, open_store(store), on_step)
    assert seen
    seen.clear()
    for proxy in cycle:
        train_proxy(study, proxy, RandomCorpus(), proxy.name.replace("+", "_"), CPU, open_store(store), on_step)
    assert seen == []
    tree = study.tree()  # the same training as a trial of a study that asks for nothing else
    tree["training"] |= {"tokens": 128 * 20, "warmup_steps": 2, "learning_rate": 1e-2, "tune": None}
    plain = study_from_tree(tree, "plain")
    trial = next(trial for trial in expand(plain).trials if trial.arm.name == "cycle")
    train_trial(plain, trial, RandomCorpus(), "step", CPU, open_store(whole), on_step)


def test_a_proxy_is_a_whole_short_training_and_an_absurd_rate_loses(tmp_path: Path) -> None:
    on_ranks(1, _find_rates, str(tmp_path / "tuned"), str(tmp_path / "whole"))
    store = open_store(str(tmp_path / "tuned"))
    facts = {found.facts["learning_rate"]: found.facts for found in store.manifests(PROXIES, "small")}
    assert sorted(facts) == NODE["learning_rates"]
    steps = open_store(str(tmp_path / "whole")).read("steps", "small")["loss_nats"].to_pylist()
    assert len(steps) == 20
    assert facts[1e-2]["loss_nats"] == pytest.approx(sum(steps[-2:]) / 2, abs=1e-12)
    assert (facts[10.0]["loss_nats"], facts[1e30]["loss_nats"]) == (None, None)
    assert "diverged: loss " in facts[10.0]["error"]
    assert "diverged at step" in facts[1e30]["error"]
    found = tuning("parabola", [Tried(rate, one["loss_nats"], 1.0) for rate, one in facts.items()])
    assert found.learning_rate == 1e-2
    assert not list((tmp_path / "tuned").glob("checkpoints/*/*/manifest.json"))
