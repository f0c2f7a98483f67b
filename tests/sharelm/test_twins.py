"""Twins on five axes: exact where closed forms allow, and the nearest there is by brute force."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharelm.closed_form.footprint import footprint
from sharelm.sharing import build_sharing
from sharelm.study import Measured, Speeds, expand, plan_from_tree, timed_pairs
from sharelm.study.load import study_from_tree
from tests.sharelm.small import TREE

AXES = ["depth", "parameters", "compute", "memory", "time"]


def study_of(twins=None, variant=None, speeds=None, **parts):
    """The small study on all five axes, with parts of it set; the time axis is known where `speeds` are given."""
    tree = {**TREE, "twins": {"axes": AXES, **(twins or {})}}
    for part, values in parts.items():
        tree[part] = {**tree[part], **values}
    if variant is not None:
        tree["variant"] = [{"name": "shared", **variant}]
    study = study_from_tree(tree, "test")
    return study if speeds is None else expand(study, Measured(dict.fromkeys([v.name for v in study.variant], speeds)))


@st.composite
def measured_studies(draw):
    heads = draw(st.sampled_from([2, 4, 8]))
    width = heads * draw(st.sampled_from([4, 8, 16]))
    depth = draw(st.integers(2, 10))
    schedule = st.lists(st.integers(0, depth - 1), min_size=depth, max_size=depth).map(
        lambda found: [sorted(set(found)).index(block) for block in found]
    )
    attention, feed_forward = draw(schedule), draw(schedule)
    if len(set(attention)) == len(set(feed_forward)) == depth:
        feed_forward = [0] * depth
    return study_of(
        variant={"attention": attention, "feed_forward": feed_forward},
        speeds=Speeds(draw(st.floats(1e3, 1e6)), draw(st.floats(1e3, 1e6))),
        data={"vocabulary": draw(st.integers(257, 900))},
        model={
            "width": width,
            "depth": depth,
            "heads": heads,
            "kv_heads": draw(st.sampled_from([1, 2])),
            "feed_forward": draw(st.integers(1, 5 * width)),
        },
        training={"tokens": 128 * draw(st.integers(3, 500)), "warmup_steps": draw(st.integers(0, 2))},
    )


def served(study, arm):
    """Bytes that a request of the first workload leaves in memory, in fp32: the small study runs on a CPU."""
    shape, workload = arm.shape, study.cost.workload[0]
    positions = workload.batch * (workload.prompt_tokens + workload.new_tokens)
    kv = 2 * arm.sharing.depth * shape.kv_heads * (shape.width // shape.heads) * positions
    return 4 * (arm.footprint.stored_parameters + kv)


@settings(max_examples=60, deadline=None)
@given(measured_studies())
def test_every_twin_is_independent_and_says_how_near_it_is(plan):
    study = plan.study
    by_name = {arm.name: arm for arm in plan.arms}
    assert len(by_name) == len(plan.arms)
    assert len({(arm.shape, arm.sharing, arm.tokens) for arm in by_name.values()}) == len(by_name)
    pairs = {pair.axis: pair for pair in plan.comparisons}
    assert list(pairs) == AXES
    variant = by_name["shared"]
    steps = study.training.tokens_per_step
    speeds = plan.speeds["shared"]
    figures = {
        "depth": lambda arm: arm.sharing.depth,
        "parameters": lambda arm: arm.footprint.stored_parameters,
        "compute": lambda arm: arm.footprint.training_flops_per_token * arm.tokens,
        "memory": lambda arm: served(study, arm),
        "time": lambda arm: arm.tokens / (speeds.variant if arm is variant else speeds.twin),
    }
    for axis, pair in pairs.items():
        twin = by_name[pair.twin]
        assert twin.sharing.is_independent
        assert (pair.target, pair.reached) == pytest.approx((figures[axis](variant), figures[axis](twin)))
        assert pair.relative_error == pytest.approx(figures[axis](twin) / figures[axis](variant) - 1)
        assert replace(twin.shape, feed_forward=variant.shape.feed_forward) == variant.shape
        assert twin.tokens % steps == 0
        if axis in ("depth", "parameters", "memory"):
            assert twin.tokens == variant.tokens
    for axis in ("compute", "time"):  # the smaller model, for as many whole steps as come nearest
        pair, twin = pairs[axis], by_name[pairs[axis].twin]
        smaller = by_name[pairs["parameters"].twin]
        assert (twin.shape, twin.sharing) == (smaller.shape, smaller.sharing)
        half_a_step = pair.reached / twin.tokens * steps * 0.5000001
        assert pair.target - pair.reached <= half_a_step
        least = steps * (study.training.warmup_steps + 1)
        assert pair.reached - pair.target <= half_a_step or twin.tokens == least


@settings(max_examples=20, deadline=None)
@given(measured_studies())
def test_no_candidate_keeps_the_rule_better(plan):
    """Against every depth up to the variant's with every feed-forward width that could matter."""
    study = plan.study
    by_name = {arm.name: arm for arm in plan.arms}
    variant, shape = by_name["shared"], by_name["shared"].shape
    figures = {"parameters": lambda arm: arm.footprint.stored_parameters, "memory": lambda arm: served(study, arm)}
    for pair in plan.comparisons:
        if pair.axis not in figures:
            continue
        measure, twin = figures[pair.axis], by_name[pair.twin]
        best = {}  # by depth: the smallest error, and the feed-forward width that has it
        for depth in range(1, study.model.depth + 1):
            sharing = build_sharing("independent", depth)
            most = measure(variant) // (3 * shape.width * depth) + shape.feed_forward + 2

            def error(f, sharing=sharing, measure=measure, pair=pair, twin=twin):
                arm = replace(twin, sharing=sharing, shape=replace(shape, feed_forward=f))
                return abs(measure(arm) / pair.target - 1)

            best[depth] = min((error(f), f) for f in range(1, most))
        if min(best.values())[0] > 0.01:
            assert abs(pair.relative_error) == pytest.approx(min(best.values())[0])
            continue
        assert abs(pair.relative_error) <= 0.01
        width, mine = shape.feed_forward, twin.shape.feed_forward
        within_a_quantum = [
            max(max(f / width, width / f) for f in range(max(1, nearest - 4), nearest + 5))
            for error, nearest in best.values()
            if error <= 0.01
        ]
        assert max(mine / width, width / mine) <= min(within_a_quantum)


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_compute_twin_learns_longer_on_a_schedule_of_its_own(blocks):
    study = study_of(variant={"scheme": "cycle", "blocks": blocks}, twins={"axes": ["depth", "parameters", "compute"]})
    by_name = {arm.name: arm for arm in expand(study).arms}
    (pair,) = [pair for pair in expand(study).comparisons if pair.axis == "compute"]
    twin, variant = by_name[pair.twin], by_name["shared"]
    flops = [footprint(arm.shape, arm.sharing).training_flops_per_token for arm in (variant, twin)]
    steps = round(study.training.steps * flops[0] / flops[1])
    assert pair.twin == f"independent-L{blocks}-steps{steps}"
    assert steps > study.training.steps
    assert twin.training(study.training).steps == steps
    assert {arm.training(study.training).steps for arm in by_name.values() if arm is not twin} == {6}


def test_a_twin_that_another_axis_has_already_is_taken():
    same_speed = study_of(twins={"axes": ["depth", "parameters", "time"]}, speeds=Speeds(5.0, 5.0))
    twins = {pair.axis: pair.twin for pair in same_speed.comparisons}
    assert twins["time"] == twins["parameters"] == "independent-L2"
    assert len(same_speed.arms) == 3


def test_the_time_axis_waits_until_it_is_measured():
    study = study_of()
    assert [pair.axis for pair in expand(study).comparisons] == ["depth", "parameters", "compute", "memory"]
    assert [(variant.name, twin.name) for variant, twin in timed_pairs(study)] == [("cycle", "independent-L2")]
    known = expand(study, Measured({"cycle": Speeds(variant=1000.0, twin=2000.0)}))
    assert expand(study).speeds == {}
    assert plan_from_tree(json.loads(json.dumps(known.tree()))) == known
    pair = known.comparisons[-1]
    assert (pair.axis, pair.twin) == ("time", "independent-L2-steps12")
    assert pair.target == pair.reached == pytest.approx(study.training.tokens / 1000)
    assert timed_pairs(study_of(twins={"axes": ["depth"]})) == []


def test_too_short_a_time_is_lengthened_past_the_warm_up_and_flagged():
    plan = study_of(speeds=Speeds(variant=1000.0, twin=10.0), training={"warmup_steps": 3})
    (pair,) = [pair for pair in plan.comparisons if pair.axis == "time"]
    assert pair.twin == "independent-L2-steps4"
    assert pair.relative_error > 0.01


def test_a_ladder_adds_the_rungs_that_are_not_there():
    study = study_of(twins={"axes": ["depth", "parameters"], "ladder": [2, 3, 4, 6]})
    found = [(arm.name, arm.role, arm.sharing.depth) for arm in expand(study).arms if arm.role in ("twin", "rung")]
    assert found == [("independent-L2", "twin", 2), ("independent-L3", "rung", 3), ("independent-L6", "rung", 6)]
    assert {arm.shape for arm in expand(study).arms} == {study.shape}


def test_the_memory_twin_is_the_same_in_both_precisions():
    by_precision = {}
    for precision, element in (("fp32", 4), ("bf16", 2)):
        study = study_of(training={"precision": precision}, twins={"axes": ["depth", "memory"]})
        pair = expand(study).comparisons[-1]
        by_precision[pair.twin, pair.relative_error] = pair.target / element
    assert len(by_precision) == 1


def test_the_steps_of_a_study_without_the_new_axes_stay_its_own():
    study = study_of(twins={"axes": ["depth", "parameters"]})
    assert [trial.name for trial in expand(study).trials] == ["independent.s0", "cycle.s0", "independent-L2.s0"]
    assert {trial.arm.training(study.training) for trial in expand(study).trials} == {study.training}
