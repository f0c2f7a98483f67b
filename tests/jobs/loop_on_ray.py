"""The loop over steps, on a real Ray: order, what is there already, what fails, what runs alone.

`test_loop.py` runs these in a process of their own: Ray keeps one way of authentication for the life of a process.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.loop import Kind, Loop, one_each
from jobs.steps import Step
from sharelm.errors import InputError
from sharelm.store import Store, open_store

STUDY = "loop"


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@ray.remote(num_cpus=0, max_retries=0)
def carry_out(uri: str, steps: list[Step]) -> None:
    """Note when each step began and ended, and commit it and what it makes, as its payload says."""
    store = open_store(uri)
    for step in steps:
        span = [time.time()]
        if step.payload.get("input_error"):
            raise InputError("x = 1 is bad")
        if step.payload.get("fails"):
            raise RuntimeError("it broke")
        if marker := step.payload.get("fails_once"):
            try:
                Path(marker).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                raise RuntimeError("it broke once")
        time.sleep(step.payload.get("seconds", 0))
        if not step.payload.get("diverges"):
            for table, name in step.makes:
                store.commit(table, STUDY, name, {})
        span.append(time.time())
        store.commit(step.table, STUDY, step.name, {}, facts={"span": span})


def kind(store: Store, alone: bool = False, together: bool = False, at_once: int = 64) -> Kind:
    def start(steps: Sequence[Step]) -> Any:
        return carry_out.remote(store.uri, steps)

    return Kind("working", start, at_once, (lambda steps: [steps]) if together else one_each, alone)


def step(kind: str, name: str, needs: Sequence[str] = (), makes: Sequence[str] = (), **payload: Any) -> Step:
    keys = [
        tuple(("made", each) if each.startswith("m-") else ("done", each) for each in names) for names in (needs, makes)
    ]
    return Step(kind, "done", name, f"{kind} {name}", {"CPU": 0}, payload, *keys)


def spans(store: Store) -> dict[str, tuple[float, float]]:
    return {manifest.step: tuple(manifest.facts["span"]) for manifest in store.manifests("done", STUDY)}


def run(steps: Sequence[Step], store: Store, said: list[str] | None = None, **kinds: Kind) -> list[str]:
    loop = Loop(steps, kinds or {"task": kind(store)}, store, STUDY)
    loop.run(lambda running: None, [].append if said is None else said.append, 60)
    return [f"{step.label}: {why}" for step, why in loop.failures]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_step_runs_once_after_all_that_it_needs(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, 12))
    needs = [data.draw(st.sets(st.integers(0, n - 1), max_size=3)) if n else set() for n in range(count)]
    store = open_store(str(tmp_path_factory.mktemp("store")))
    steps = [step("task", f"s{n}", [f"s{m}" for m in sorted(needs[n])]) for n in range(count)]
    assert run(data.draw(st.permutations(steps)), store) == []
    found = spans(store)
    assert len(found) == count
    for number, before in enumerate(needs):
        assert all(found[f"s{n}"][1] <= found[f"s{number}"][0] for n in before)
    committed = json.dumps(found)
    assert run(steps, store) == []
    assert json.dumps(spans(store)) == committed  # nothing is carried out again


def test_what_a_step_did_not_make_is_waited_for_by_nobody(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    steps = [
        step("task", "well", makes=["m-well"]),
        step("task", "diverged", makes=["m-diverged"], diverges=True),
        step("task", "of-well", ["m-well"]),
        step("task", "of-diverged", ["m-diverged"]),
        step("task", "of-both", ["m-well", "m-diverged"]),
    ]
    for _ in range(2):  # in the run of the step, and where it was carried out before
        assert run(steps, store) == []
        assert spans(store).keys() == {"well", "diverged", "of-well"}


def test_a_failure_is_said_and_stops_only_what_needs_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    steps = [
        step("group", "a", makes=["m-a"]),
        step("group", "b", makes=["m-b"], fails=True),
        step("group", "c", makes=["m-c"]),
        *(step("task", f"of-{each}", [f"m-{each}"]) for each in "abc"),
        step("meter", "cost", ["m-a"]),
    ]
    kinds = {"group": kind(store, together=True), "task": kind(store), "meter": kind(store, alone=True)}
    said: list[str] = []
    assert run(steps, store, said, **kinds) == ["group b: RuntimeError: it broke"]
    # the task began with a: b has all tries of a task to itself before it is given up
    assert said == ["group b is tried again: RuntimeError: it broke", "group b failed: RuntimeError: it broke"]
    assert spans(store).keys() == {"a", "c", "of-a", "of-c", "cost"}
    mended = [step("group", each, makes=[f"m-{each}"]) for each in "abc"] + steps[3:]
    assert run(mended, store, **kinds) == []
    assert spans(store).keys() == {"a", "b", "c", "of-a", "of-b", "of-c", "cost"}


def test_a_step_that_fails_later_in_its_task_is_tried_again(tmp_path: Path) -> None:
    store, broken = open_store(str(tmp_path / "store")), str(tmp_path / "broken")
    steps = [step("group", "a"), step("group", "b", fails_once=broken), step("group", "c"), step("task", "of-b", ["b"])]
    said: list[str] = []
    assert run(steps, store, said, group=kind(store, together=True), task=kind(store)) == []
    assert said == ["group b is tried again: RuntimeError: it broke once"]
    assert spans(store).keys() == {"a", "b", "c", "of-b"}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_every_step_of_a_task_that_can_be_carried_out_is(
    tmp_path_factory: pytest.TempPathFactory, fails: list[bool]
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    steps = [step("group", f"s{n}", fails=broken) for n, broken in enumerate(fails)]
    failures = run(steps, store, group=kind(store, together=True))
    assert failures == [f"group s{n}: RuntimeError: it broke" for n, broken in enumerate(fails) if broken]
    assert spans(store).keys() == {f"s{n}" for n, broken in enumerate(fails) if not broken}


def test_bad_input_that_a_step_finds_ends_the_run(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(InputError, match="x = 1 is bad"):
        run([step("task", "a", input_error=True)], store)


def test_what_runs_alone_waits_for_everything_else(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    steps = [
        step("meter", "cost-a", ["m-a"], seconds=0.05),
        step("meter", "cost-b", ["m-b"], seconds=0.05),
        step("task", "a", makes=["m-a"]),
        step("task", "b", makes=["m-b"], seconds=0.8),
        step("task", "of-b", ["m-b"], seconds=0.3),
    ]
    shown: list[Counter[str]] = []
    loop = Loop(steps, {"task": kind(store), "meter": kind(store, alone=True, together=True)}, store, STUDY)
    assert [each.name for each in loop.missing] == ["cost-a", "cost-b", "a", "b", "of-b"]
    loop.run(shown.append, print, 60)
    found = spans(store)
    others = max(end for name, (_, end) in found.items() if not name.startswith("cost"))
    assert min(found["cost-a"][0], found["cost-b"][0]) >= others
    assert all(len(running) <= 1 for running in shown)  # never both kinds
    assert {"task", "meter"} >= {name for running in shown for name in running}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 5), st.integers(1, 30), st.booleans())
def test_no_more_tasks_are_in_flight_than_a_kind_allows(
    tmp_path_factory: pytest.TempPathFactory, at_once: int, count: int, alone: bool
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    plain, in_flight, most = kind(store), set(), 0

    def start(steps: Sequence[Step]) -> Any:
        nonlocal most, in_flight
        in_flight = {name for name in in_flight if store.find("done", STUDY, name) is None} | {steps[0].name}
        most = max(most, len(in_flight))
        return plain.start(steps)

    steps = [step("task", f"s{n}", ["first"] if n else []) for n in range(count)] + [step("task", "first")]
    assert run(steps, store, task=Kind("working", start, at_once, alone=alone)) == []
    assert spans(store).keys() == {each.name for each in steps}
    assert most <= at_once


def test_a_measurement_that_fails_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    steps = [step("meter", f"cost-{n}", fails=n < 2) for n in range(5)]
    failures = run(steps, store, meter=kind(store, alone=True, at_once=1))
    assert failures == [f"meter cost-{n}: RuntimeError: it broke" for n in range(2)]
    assert spans(store).keys() == {"cost-2", "cost-3", "cost-4"}


def test_steps_that_need_each_other_are_refused(tmp_path: Path) -> None:
    from graphlib import CycleError

    with pytest.raises(CycleError):
        run([step("task", "a", ["b"]), step("task", "b", ["a"])], open_store(str(tmp_path)))


def test_every_step_has_a_state_while_others_run(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.commit("done", STUDY, "there", {})
    steps = [
        step("task", "there"),
        step("group", "a", seconds=1.5),
        step("group", "b", fails=True),
        step("task", "of-a", ["a"]),
        step("task", "of-b", ["b"]),
    ]
    loop = Loop(steps, {"task": kind(store), "group": kind(store, together=True)}, store, STUDY)

    def states() -> dict[str, str]:
        return {each.name: state for each, state in loop.states()}

    assert states() == {"there": "done", "a": "waiting", "b": "waiting", "of-a": "waiting", "of-b": "waiting"}
    shown: list[dict[str, str]] = []
    loop.run(lambda running: shown.append(states()), print, 60)
    assert shown[0] == {"there": "done", "a": "running", "b": "running", "of-a": "waiting", "of-b": "waiting"}
    assert states() == {"there": "done", "a": "done", "b": "failed", "of-a": "done", "of-b": "waiting"}
