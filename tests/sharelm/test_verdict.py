import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from sharelm.errors import InputError
from sharelm.study import expand
from sharelm.tables import TABLES
from sharelm.verdict import supported_variants
from tests.sharelm.verdict_helpers import LOSSES, STUDY, compared, only, served, study_of, trained, verdict


def test_every_variant_has_its_axes_kpis_and_stages_and_nothing_else():
    study = study_of(("albert", "cycle"))
    found = verdict(study)
    assert found.schema == TABLES["verdicts"]
    names = ["depth", "parameters", "accuracy", "inference_cost", "upkeep"]
    names += ["proof_of_concept", "important_workloads", "everywhere"]
    assert [(row["variant"], row["name"]) for row in found.to_pylist()] == [
        (variant, name) for variant in ("albert", "cycle") for name in names
    ]


@pytest.mark.parametrize("outcome", list(LOSSES))
def test_an_axis_says_its_outcome_with_figures(outcome):
    row = only(verdict(comparisons=compared(parameters=outcome)), "parameters")
    assert (row["kind"], row["outcome"], row["value"], row["threshold"]) == ("axis", outcome, LOSSES[outcome][0], 0.05)
    assert row["sentence"].startswith(outcome.replace("_", " ").capitalize())
    assert f"{LOSSES[outcome][0]:+.3f} nats (98.75 % interval {LOSSES[outcome][1]:+.3f}" in row["sentence"]
    assert "margin is 0.05" in row["sentence"]


def test_not_shown_says_what_would_help():
    said = only(verdict(comparisons=compared(depth="not_shown")), "depth")["sentence"]
    assert "+0.030 nats (98.75 % interval -0.011 to +0.071)" in said
    assert "about 4 seeds would tell if these figures hold" in said
    said = only(verdict(comparisons=compared(depth="not_shown", seeds=1)), "depth")["sentence"]
    assert "a second seed at the least is needed to tell" in said
    assert "Seeds were not varied." in said


def test_the_depth_axis_says_what_is_saved():
    stored = {arm.name: arm.footprint.stored_parameters for arm in expand(STUDY).arms}
    saved = 100 * (1 - stored["cycle"] / stored["independent"])
    found = verdict()
    assert f"stores {saved:.1f} % fewer parameters" in only(found, "depth")["sentence"]
    assert "fewer" not in only(found, "parameters")["sentence"]


def test_an_axis_that_is_off_is_flagged():
    assert "-3.2 % off" in only(verdict(comparisons=compared(error=-0.032)), "parameters")["sentence"]
    assert "off on this axis" not in only(verdict(comparisons=compared(error=-0.009)), "parameters")["sentence"]


@pytest.mark.parametrize(
    ("alone", "seeds", "said"),
    [(0.02, 3, True), (0.0005, 3, False), (0.0007, 2, True), (None, 3, False)],  # two seeds: Student's t is 51
)
def test_a_claim_that_the_pairs_own_seeds_do_not_show_says_so(alone, seeds, said):
    """A loss of 0.02 with 0.002 from documents, against 0.05, at 98.75 %: the note follows Student's interval."""
    rows = [row | {"standard_error_seeds_alone": alone} for row in compared(seeds=seeds).to_pylist()]
    found = verdict(comparisons=pa.Table.from_pylist(rows, schema=TABLES["comparisons"]))
    if alone is not None:
        own, documents = (stats.t.ppf(1 - 0.0125 / 2, df) * se for df, se in ((seeds - 1, alone), (99, 0.002)))
        assert (0.02 + np.hypot(own, documents) >= 0.05) == said
    for name in ("depth", "accuracy"):
        assert ("By its own" in only(found, name)["sentence"]) == said


@pytest.mark.parametrize(("p", "said"), [(0.0249, True), (0.0251, False)])
def test_equivalence_is_said_where_it_is_claimed(p, said):
    rows = [row | {"p_equivalent": p} for row in compared().to_pylist()]
    found = verdict(comparisons=pa.Table.from_pylist(rows, schema=TABLES["comparisons"]))
    assert ("Equivalent" in only(found, "depth")["sentence"]) == said


def test_nothing_scored_is_not_shown_anywhere():
    found = verdict(comparisons=compared(depth=None))
    assert only(found, "depth")["sentence"].startswith("Not shown: no seed of both cycle and independent was scored.")
    assert (only(found, "accuracy")["outcome"], only(found, "accuracy")["value"]) == ("not_shown", None)


@pytest.mark.parametrize(
    ("loss", "task", "outcome"),
    [
        ("better", "better", "met"),
        ("not_worse", "not_worse", "met"),
        ("not_worse", "not_shown", "met"),
        ("not_worse", "worse", "not_met"),
        ("better", "worse", "not_met"),
        ("not_shown", "worse", "not_met"),
        ("not_shown", "better", "not_shown"),
        ("not_shown", "not_shown", "not_shown"),
        ("worse", "better", "not_met"),
        (None, "not_shown", "not_shown"),
    ],
)
def test_accuracy_rests_on_the_loss_first_and_tasks_second(loss, task, outcome):
    row = only(verdict(comparisons=compared(depth=loss, task=task)), "accuracy")
    assert row["outcome"] == outcome
    if task == "not_shown" and outcome == "met":
        assert "Not shown for task last_word." in row["sentence"]
    if task == "worse":
        assert (row["measure"], row["value"], row["threshold"]) == (
            "accuracy_difference",
            -0.1,
            0.02,
        )


def test_accuracy_does_not_look_at_the_other_axis():
    assert only(verdict(comparisons=compared(parameters="worse")), "accuracy")["outcome"] == "met"


@pytest.mark.parametrize("kpi", ["accuracy", "upkeep"])
def test_a_variant_that_diverged_once_meets_neither(kpi):
    row = only(verdict(trials=trained(diverged=[("cycle", 1)])), kpi)
    assert (row["outcome"], row["measure"], row["value"]) == ("not_met", "diverged_trials", 1)
    assert "diverged with seed 1: loss is nan at step 7" in row["sentence"]


def test_a_twin_that_diverged_is_not_held_against_the_variant():
    assert only(verdict(trials=trained(diverged=[("independent", 1)])), "accuracy")["outcome"] == "met"


@pytest.mark.parametrize(
    ("figures", "outcome", "measure", "value"),
    [
        ({}, "met", "cost_per_token_ratio", 1.0),
        ({"peak_bytes": 800}, "met", "memory_ratio", 0.8),
        ({"peak_bytes": 810}, "not_met", "memory_ratio", 0.81),
        ({"cost_per_1m_tokens": 2.2}, "not_met", "cost_per_token_ratio", 1.1),
        ({"peak_bytes": None}, "not_shown", "memory_ratio", None),
        ({"peak_bytes": None, "cost_per_1m_tokens": 2.2}, "not_met", "cost_per_token_ratio", 1.1),
        ({"device": "CPU"}, "not_shown", "memory_ratio", None),
        ({"precision": "fp32"}, "not_shown", "memory_ratio", None),
    ],
)
def test_inference_cost_against_its_limits(figures, outcome, measure, value):
    row = only(verdict(costs=served(**figures)), "inference_cost")
    assert (row["outcome"], row["measure"], row["value"]) == (outcome, measure, pytest.approx(value))


@pytest.mark.parametrize(
    ("repeats", "outcome", "words"),
    [
        ([1.9, 2.0, 2.05], "met", "cost per token 99.2 % (95 to 102 % in its repeats, at most 105 %)"),
        (
            [1.9, 2.0, 2.3],
            "not_shown",
            "Cost per token 103 % of the full model's (95 to 115 % in its repeats, at most 105 %)",
        ),
        (
            [2.2, 2.3, 2.4],
            "not_met",
            "Cost per token 115 % of the full model's (110 to 120 % in its repeats, at most 105 %)",
        ),
        ([2.0, 2.001, 2.0], "met", "cost per token 100 % (at most 105 %)"),
    ],
)
def test_a_cost_is_shown_where_every_repeat_says_the_same(repeats, outcome, words):
    """Repeats are paired by seed; the twin's figure is 2.0 in each."""
    rows = []
    for seed, cost in enumerate(repeats):
        rows += [row | {"seed": seed} for row in served(cost_per_1m_tokens=cost).to_pylist()]
    row = only(verdict(costs=pa.Table.from_pylist(rows, schema=TABLES["costs"])), "inference_cost")
    assert row["outcome"] == outcome
    assert words in row["sentence"]


def test_the_worst_workload_counts():
    study = study_of(workloads=("chat", "batch"))
    both = ("chat", "batch")
    row = only(verdict(study, costs=served(study, both, peak_bytes={"chat": 600, "batch": 900})), "inference_cost")
    assert (row["outcome"], row["value"]) == ("not_met", pytest.approx(0.9))
    assert row["sentence"] == ("Memory 90 % of the full model's for batch (at most 80 %).")


def test_a_workload_that_was_not_measured_is_not_met():
    study = study_of(workloads=("chat", "batch"))
    row = only(verdict(study, costs=served(study, ("chat",))), "inference_cost")
    assert (row["outcome"], row["value"]) == ("not_shown", None)
    assert "for batch was not measured" in row["sentence"]
    nothing = only(verdict(costs=TABLES["costs"].empty_table()), "inference_cost")
    assert nothing["outcome"] == "not_shown"


def test_a_price_of_zero_makes_no_ratio():
    costs = served(cost_per_1m_tokens=0.0)
    free = costs.set_column(
        costs.schema.get_field_index("cost_per_1m_tokens"), "cost_per_1m_tokens", [[0.0] * len(costs)]
    )
    row = only(verdict(costs=free), "inference_cost")
    assert row["outcome"] == "not_shown"
    assert "the twin's figure is 0" in row["sentence"]


@pytest.mark.parametrize(
    ("figures", "outcome", "measure", "value"),
    [
        ({}, "met", "training_cost_ratio", 1.0),
        ({"training_cost": 13.5}, "not_met", "training_cost_ratio", 13.5 / 11),
        ({"training_cost": 12.0}, "not_shown", "training_cost_ratio", 12 / 11),
        ({"weights_bytes": 690}, "met", "stored_bytes_ratio", 0.69),
        ({"weights_bytes": 710}, "not_met", "stored_bytes_ratio", 0.71),
        ({"loss_spikes": 1}, "not_met", "loss_spikes", 1),
        ({"training_cost": None}, "not_shown", "training_cost_ratio", None),
        ({"loss_spikes": None}, "not_shown", "loss_spikes", None),
        ({"device": "CPU"}, "not_shown", "training_cost_ratio", None),
        ({"training_cost": None, "weights_bytes": 710}, "not_met", "stored_bytes_ratio", 0.71),
    ],
)
def test_upkeep_against_its_limits(figures, outcome, measure, value):
    row = only(verdict(trials=trained(**figures)), "upkeep")
    assert (row["outcome"], row["measure"], row["value"]) == (outcome, measure, pytest.approx(value))


def test_upkeep_compares_the_same_seeds():
    row = only(verdict(trials=trained(diverged=[("independent", 2)])), "upkeep")
    assert row["value"] == pytest.approx(1.0)


def test_upkeep_without_trials_is_not_shown():
    assert only(verdict(trials=TABLES["trials"].empty_table()), "upkeep")["outcome"] == "not_shown"


STAGES = ("proof_of_concept", "important_workloads", "everywhere")


@pytest.mark.parametrize(
    ("evidence", "supported", "lacks"),
    [
        ({}, 3, None),
        ({"comparisons": compared(depth="better", parameters="better")}, 3, None),
        ({"comparisons": compared(depth="worse")}, 0, "Accuracy is not met"),
        ({"comparisons": compared(depth="not_shown")}, 0, "Accuracy is not shown"),
        ({"costs": served(peak_bytes=900)}, 1, "Inference cost is not met"),
        ({"costs": TABLES["costs"].empty_table()}, 1, "Inference cost is not shown"),
        ({"comparisons": compared(seeds=1)}, 1, "1 of the 2 seeds"),
        ({"comparisons": compared(seeds=2)}, 2, "2 of the 3 seeds"),
        ({"trials": trained(tokens=999)}, 1, "999 of the 1,000 training tokens"),
        ({"trials": trained(tokens=4999)}, 2, "4,999 of the 5,000 training tokens"),
        ({"trials": trained(loss_spikes=1)}, 2, "Upkeep is not met"),
        ({"comparisons": compared(parameters="worse")}, 2, "The parameters axis is worse"),
        ({"comparisons": compared(parameters="not_shown")}, 2, "The parameters axis is not shown"),
        ({"trials": trained(diverged=[("cycle", 0)])}, 0, "Training diverged with seed 0"),
    ],
)
def test_a_stage_is_supported_up_to_the_first_thing_it_lacks(evidence, supported, lacks):
    found = verdict(**evidence)
    rows = [only(found, stage) for stage in STAGES]
    assert [row["outcome"] for row in rows] == ["supported"] * supported + ["not_supported"] * (3 - supported)
    for row in rows[supported:]:
        assert lacks in row["sentence"]
    for row in rows[supported + 1 :]:
        assert row["sentence"].startswith(STAGES[supported].replace("_", " ").capitalize() + " comes first.")
    for at, stage in enumerate(STAGES):
        assert bool(supported_variants(found, stage)) == (at < supported)


def test_a_later_gate_that_is_easier_still_waits_for_the_earlier():
    study = study_of(gates={"proof_of_concept": {"kpis": ["accuracy"], "seeds": 9}, "everywhere": {"kpis": ["upkeep"]}})
    assert only(verdict(study), "everywhere")["outcome"] == "not_supported"


def test_a_gate_names_the_variants_it_supports():
    study = study_of(("albert", "cycle"))
    found = verdict(study, compared(study, albert_depth="worse"))
    assert supported_variants(found, "everywhere") == ["cycle"]
    assert supported_variants(verdict(study), "everywhere") == ["albert", "cycle"]
    with pytest.raises(InputError, match=r"stage = 'pilot'.*proof_of_concept"):
        supported_variants(found, "pilot")


def test_comparisons_of_another_study_are_refused():
    with pytest.raises(InputError, match="no loss_nats_per_token of albert on the depth axis"):
        verdict(study_of(("albert", "cycle")), comparisons=compared())


def test_a_ratio_just_beyond_its_limit_is_not_rounded_onto_it():
    row = only(verdict(costs=served(cost_per_1m_tokens=2.10008)), "inference_cost")
    assert row["outcome"] == "not_met"
    assert "Cost per token 105.004 % of the full model's (at most 105 %)" in row["sentence"]
