import tomllib
from pathlib import Path

import pyarrow as pa
import pytest

from sharelm.errors import InputError
from sharelm.store.schemas import TABLES
from sharelm.study import arms, comparisons
from sharelm.study.load import study_from_tree
from sharelm.verdict import decide, gate_met, headline, supported_variants

QUICKSTART = Path(__file__).parents[1] / "study.toml"
LOSSES = {  # outcome: difference, interval
    "better": (-0.10, -0.12, -0.08),
    "not_worse": (0.020, 0.005, 0.035),
    "worse": (0.300, 0.280, 0.320),
    "not_shown": (0.030, -0.011, 0.071),
}


def study_of(variants=("cycle",), gates=None, workloads=("chat",)):
    tree = tomllib.loads(QUICKSTART.read_text())
    tree["variant"] = [variant for variant in tree["variant"] if variant["name"] in variants]
    tree["cost"]["workload"] = [tree["cost"]["workload"][0] | {"name": name} for name in workloads]
    tree["rollout"] = {
        "proof_of_concept": {"kpis": ["accuracy"]},
        "important_workloads": {"kpis": ["accuracy", "inference_cost"], "seeds": 2, "training_tokens": 1000},
        "everywhere": {
            "kpis": ["accuracy", "inference_cost", "upkeep"],
            "seeds": 3,
            "training_tokens": 5000,
            "axes": ["parameters"],
        },
    } | (gates or {})
    return study_from_tree(tree, "test")


STUDY = study_of()


def compared(study=STUDY, seeds=3, task="not_worse", error=0.0, **losses):
    """One loss and one task comparison an axis; `depth="worse"` sets the loss's outcome there."""
    rows = []
    for pair in comparisons(study):
        outcome = losses.get(f"{pair.variant}_{pair.axis}", losses.get(pair.axis, "not_worse"))
        shown = outcome is not None
        difference, low, high = LOSSES[outcome] if shown else (None, None, None)
        common = {
            "variant": pair.variant,
            "twin": pair.twin,
            "axis": pair.axis,
            "axis_relative_error": error,
            "domain": "all",
            "seeds": seeds if shown else 0,
            "documents": 100 if shown else 0,
        }
        rows.append(
            common
            | {
                "task": "held_out",
                "metric": "loss_nats_per_token",
                "difference": difference,
                "interval_low": low,
                "interval_high": high,
                "confidence": 0.9875,
                "standard_error_seeds": 0.004 if seeds > 1 else None,
                "standard_error_documents": 0.002,
                "margin": 0.05,
                "outcome": outcome or "not_shown",
            }
        )
        rows.append(
            common
            | {
                "task": "last_word",
                "metric": "accuracy",
                "difference": -0.1,
                "interval_low": -0.12,
                "interval_high": -0.08,
                "confidence": 0.95,
                "margin": 0.02,
                "outcome": task,
            }
        )
    return pa.Table.from_pylist(rows, schema=TABLES["comparisons"])


def trained(study=STUDY, seeds=(0, 1, 2), diverged=(), **variants):
    """One trial an arm and seed; keyword arguments are columns of the variants' rows."""
    rows = []
    for arm in arms(study):
        for seed in seeds:
            row = {
                "trial": f"{arm.name}.s{seed}",
                "arm": arm.name,
                "seed": seed,
                "role": arm.role,
                "status": "diverged" if (arm.name, seed) in diverged else "done",
                "error": "loss is nan at step 7" if (arm.name, seed) in diverged else None,
                "tokens": 9000,
                "workers": 1,
                "device": "H200",
                "precision": "bf16",
                "loss_spikes": 5 if arm.role != "variant" else 0,
                "training_cost": 10.0 + seed,
                "weights_bytes": 600 if arm.role == "variant" else 1000,
            }
            rows.append(row | (variants if arm.role == "variant" else {}))
    return pa.Table.from_pylist(rows, schema=TABLES["trials"])


def served(study=STUDY, workloads=("chat",), **variants):
    """One cost row an arm and workload; a value may be a dict by workload."""
    rows = []
    for arm in arms(study):
        for workload in workloads:
            row = {
                "arm": arm.name,
                "seed": 0,
                "workload": workload,
                "device": "H200",
                "precision": "bf16",
                "peak_bytes": 700 if arm.role == "variant" else 1000,
                "cost_per_1m_tokens": 2.0,
            }
            given = {k: v[workload] if isinstance(v, dict) else v for k, v in variants.items()}
            rows.append(row | (given if arm.role == "variant" else {}))
    return pa.Table.from_pylist(rows, schema=TABLES["costs"])


def verdict(study=STUDY, comparisons=None, trials=None, costs=None):
    return decide(
        study,
        compared(study) if comparisons is None else comparisons,
        trained(study) if trials is None else trials,
        served(study) if costs is None else costs,
    )


def only(found, name, variant="cycle"):
    rows = [row for row in found.to_pylist() if (row["name"], row["variant"]) == (name, variant)]
    assert len(rows) == 1
    return rows[0]


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
    assert row["reason"].startswith(outcome.replace("_", " ").capitalize())
    assert f"{LOSSES[outcome][0]:+.3f} nats (98.75 % interval {LOSSES[outcome][1]:+.3f}" in row["reason"]
    assert "margin is 0.05" in row["reason"]


def test_not_shown_says_what_would_help():
    reason = only(verdict(comparisons=compared(depth="not_shown")), "depth")["reason"]
    assert "+0.030 nats (98.75 % interval -0.011 to +0.071)" in reason
    assert "about 4 seeds would tell if these figures hold" in reason
    reason = only(verdict(comparisons=compared(depth="not_shown", seeds=1)), "depth")["reason"]
    assert "a second seed at the least is needed to tell" in reason
    assert "Seeds were not varied." in reason


def test_the_depth_axis_says_what_is_saved():
    stored = {arm.name: arm.footprint.stored_parameters for arm in arms(STUDY)}
    saved = 100 * (1 - stored["cycle"] / stored["independent"])
    found = verdict()
    assert f"stores {saved:.1f} % fewer parameters" in only(found, "depth")["reason"]
    assert "fewer" not in only(found, "parameters")["reason"]


def test_an_axis_that_is_off_is_flagged():
    assert "-3.2 % off" in only(verdict(comparisons=compared(error=-0.032)), "parameters")["reason"]
    assert "off on this axis" not in only(verdict(comparisons=compared(error=-0.009)), "parameters")["reason"]


def test_nothing_scored_is_not_shown_anywhere():
    found = verdict(comparisons=compared(depth=None))
    assert only(found, "depth")["reason"].startswith("Not shown: no seed of both cycle and independent was scored.")
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
        assert "Not shown for task last_word." in row["reason"]
    if task == "worse":
        assert (row["measure"], row["value"], row["threshold"]) == (
            "difference of accuracy, task last_word",
            -0.1,
            0.02,
        )


def test_accuracy_does_not_look_at_the_other_axis():
    assert only(verdict(comparisons=compared(parameters="worse")), "accuracy")["outcome"] == "met"


@pytest.mark.parametrize("kpi", ["accuracy", "upkeep"])
def test_a_variant_that_diverged_once_meets_neither(kpi):
    row = only(verdict(trials=trained(diverged=[("cycle", 1)])), kpi)
    assert (row["outcome"], row["measure"], row["value"]) == ("not_met", "diverged trials", 1)
    assert "diverged with seed 1: loss is nan at step 7" in row["reason"]


def test_a_twin_that_diverged_is_not_held_against_the_variant():
    assert only(verdict(trials=trained(diverged=[("independent", 1)])), "accuracy")["outcome"] == "met"


@pytest.mark.parametrize(
    ("figures", "outcome", "measure", "value"),
    [
        ({}, "met", "cost per token ratio", 1.0),
        ({"peak_bytes": 800}, "met", "memory ratio", 0.8),
        ({"peak_bytes": 810}, "not_met", "memory ratio", 0.81),
        ({"cost_per_1m_tokens": 2.2}, "not_met", "cost per token ratio", 1.1),
        ({"peak_bytes": None}, "not_shown", "memory ratio", None),
        ({"peak_bytes": None, "cost_per_1m_tokens": 2.2}, "not_met", "cost per token ratio", 1.1),
        ({"device": "CPU"}, "not_shown", "memory ratio", None),
        ({"precision": "fp32"}, "not_shown", "memory ratio", None),
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
    assert words in row["reason"]


def test_the_worst_workload_counts():
    study = study_of(workloads=("chat", "batch"))
    both = ("chat", "batch")
    row = only(verdict(study, costs=served(study, both, peak_bytes={"chat": 600, "batch": 900})), "inference_cost")
    assert (row["outcome"], row["value"]) == ("not_met", pytest.approx(0.9))
    assert row["reason"] == ("Memory 90 % of the full model's for batch (at most 80 %).")


def test_a_workload_that_was_not_measured_is_not_met():
    study = study_of(workloads=("chat", "batch"))
    row = only(verdict(study, costs=served(study, ("chat",))), "inference_cost")
    assert (row["outcome"], row["value"]) == ("not_shown", None)
    assert "for batch was not measured" in row["reason"]
    nothing = only(verdict(costs=TABLES["costs"].empty_table()), "inference_cost")
    assert nothing["outcome"] == "not_shown"


def test_a_price_of_zero_makes_no_ratio():
    costs = served(cost_per_1m_tokens=0.0)
    free = costs.set_column(
        costs.schema.get_field_index("cost_per_1m_tokens"), "cost_per_1m_tokens", [[0.0] * len(costs)]
    )
    row = only(verdict(costs=free), "inference_cost")
    assert row["outcome"] == "not_shown"
    assert "the twin's figure is 0" in row["reason"]


@pytest.mark.parametrize(
    ("figures", "outcome", "measure", "value"),
    [
        ({}, "met", "training cost ratio", 1.0),
        ({"training_cost": 13.5}, "not_met", "training cost ratio", 13.5 / 11),
        ({"training_cost": 12.0}, "not_shown", "training cost ratio", 12 / 11),
        ({"weights_bytes": 690}, "met", "stored bytes ratio", 0.69),
        ({"weights_bytes": 710}, "not_met", "stored bytes ratio", 0.71),
        ({"loss_spikes": 1}, "not_met", "loss spikes", 1),
        ({"training_cost": None}, "not_shown", "training cost ratio", None),
        ({"loss_spikes": None}, "not_shown", "loss spikes", None),
        ({"device": "CPU"}, "not_shown", "training cost ratio", None),
        ({"training_cost": None, "weights_bytes": 710}, "not_met", "stored bytes ratio", 0.71),
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
        assert lacks in row["reason"]
    for row in rows[supported + 1 :]:
        assert row["reason"].startswith(STAGES[supported].replace("_", " ").capitalize() + " comes first.")
    for at, stage in enumerate(STAGES):
        assert gate_met(found, stage) == (at < supported)


def test_a_later_gate_that_is_easier_still_waits_for_the_earlier():
    study = study_of(gates={"proof_of_concept": {"kpis": ["accuracy"], "seeds": 9}, "everywhere": {"kpis": ["upkeep"]}})
    assert only(verdict(study), "everywhere")["outcome"] == "not_supported"


def test_a_gate_names_the_variants_it_supports():
    study = study_of(("albert", "cycle"))
    found = verdict(study, compared(study, albert_depth="worse"))
    assert supported_variants(found, "everywhere") == ["cycle"]
    assert supported_variants(verdict(study), "everywhere") == ["albert", "cycle"]
    with pytest.raises(InputError, match=r"stage = 'pilot'.*proof_of_concept"):
        gate_met(found, "pilot")


def test_comparisons_of_another_study_are_refused():
    with pytest.raises(InputError, match="no loss_nats_per_token of albert on the depth axis"):
        verdict(study_of(("albert", "cycle")), comparisons=compared())


def lines(study=STUDY, comparisons=None, **evidence):
    comparisons = compared(study) if comparisons is None else comparisons
    found = headline(study, verdict(study, comparisons, **evidence), comparisons)
    assert len(found) == 5
    assert all(line.endswith(".") and "\n" not in line and "None" not in line for line in found)
    return found


def test_a_ratio_just_beyond_its_limit_is_not_rounded_onto_it():
    row = only(verdict(costs=served(cost_per_1m_tokens=2.10008)), "inference_cost")
    assert row["outcome"] == "not_met"
    assert "Cost per token 105.004 % of the full model's (at most 105 %)" in row["reason"]


def test_five_lines_when_all_is_shown():
    answer, accuracy, inference, upkeep, rollout = lines()
    assert answer == (
        "Shown: cycle (42 % fewer parameters) keeps the full model's accuracy, its loss to within 0.05 nats."
    )
    assert accuracy == (
        "Accuracy (3 seeds, loss may rise by 0.05 nats): cycle met, loss +0.020 nats (interval +0.005 to +0.035); "
        "beside an independent model of equal parameters, cycle not worse."
    )
    assert inference == (
        "Inference cost: cycle met, memory 70 % of the full model's (at most 80 %) and cost per token 100 % "
        "(at most 105 %)."
    )
    assert upkeep == (
        "Upkeep: cycle met, training cost 100 % of the full model's (at most 110 %), stored bytes 60 % (at most 70 %) "
        "and 0 loss spikes (at most 0)."
    )
    assert rollout == "Roll-out: cycle is ready for the last stage, everywhere."


def test_five_lines_name_every_variant_and_no_winner():
    study = study_of(("albert", "cycle"))
    found = lines(study, compared(study, albert_depth="worse", albert_parameters="better"))
    assert all("albert" in line and "cycle" in line for line in found)
    answer, accuracy, _, _, rollout = found
    assert answer.endswith("The full model's accuracy is not kept by albert (64 % fewer parameters).")
    assert "equal parameters, albert better, cycle not worse" in accuracy
    assert rollout == (
        "Roll-out: albert is not ready for any stage, since proof of concept asks for accuracy, which is not met; "
        "cycle is ready for the last stage, everywhere."
    )
    both = lines(study)[0]
    assert "albert (64 % fewer parameters) and cycle (42 % fewer parameters) keep the full model's accuracy" in both


def test_five_lines_of_many_variants_have_figures_where_a_kpi_is_not_met():
    tree = STUDY.tree()
    tree["variant"] = [{"name": f"cycle{i}", "scheme": "cycle", "blocks": 2} for i in range(4)]
    study = study_from_tree(tree, "test")
    rows = served(study).to_pylist()
    costs = pa.Table.from_pylist([row | {"peak_bytes": 900} if row["arm"] == "cycle2" else row for row in rows])
    _, _, inference, upkeep, _ = lines(study, trials=trained(study), costs=costs)
    assert inference == (
        "Inference cost: met by cycle0, cycle1 and cycle3; cycle2 not met, memory 90 % of the full model's "
        "(at most 80 %)."
    )
    assert upkeep == "Upkeep: met by all 4 variants."


def test_five_lines_of_many_variants_say_how_far_they_reach():
    tree = STUDY.tree()
    tree["variant"] = [{"name": f"cycle{i}", "scheme": "cycle", "blocks": 1 + i % 2} for i in range(4)]
    study = study_from_tree(tree, "test")
    comparisons = compared(study, **{f"cycle{i}_depth": "worse" for i in range(4)})
    rows = [
        row | {"peak_bytes": 900 + int(row["arm"][-1])} if row["arm"].startswith("cycle") else row
        for row in served(study).to_pylist()
    ]
    answer, accuracy, inference, _, rollout = lines(study, comparisons, costs=pa.Table.from_pylist(rows))
    assert answer == "The full model's accuracy is not kept by any of the 4 variants (42 to 64 % fewer parameters)."
    assert accuracy.startswith(
        "Accuracy (3 seeds, loss may rise by 0.05 nats): all 4 variants not met, loss +0.300 nats (cycle0, interval "
    )
    assert accuracy.count("interval") == 2
    assert accuracy.endswith("beside an independent model of equal parameters, all 4 variants not worse.")
    assert inference == (
        "Inference cost: all 4 variants not met, memory 90 to 90.3 % of the full model's (at most 80 %)."
    )
    assert rollout.startswith("Roll-out: all 4 variants are not ready for any stage, since")
    shown = lines(study)[0]
    assert shown.startswith("Shown: all 4 variants (42 to 64 % fewer parameters) keep the full model's accuracy")


def test_five_lines_when_nothing_is_shown():
    answer, accuracy, inference, _, rollout = lines(
        comparisons=compared(depth="not_shown"), costs=TABLES["costs"].empty_table()
    )
    assert answer == (
        "Not shown: this study is too small to tell whether cycle (42 % fewer parameters) keeps the full model's "
        "accuracy."
    )
    assert (
        "cycle not shown, loss +0.030 nats (interval -0.011 to +0.071), about 4 seeds would tell if these figures hold"
    ) in accuracy
    assert "cycle not shown, memory was not measured (no rows of both arms under the same conditions)" in inference
    assert rollout == (
        "Roll-out: cycle is not ready for any stage, since proof of concept asks for accuracy, which is not shown."
    )


def test_five_lines_when_nothing_was_scored():
    answer, accuracy, *_ = lines(comparisons=compared(depth=None))
    assert answer.startswith("Not shown: too little was scored to tell whether cycle")
    assert "cycle not shown, no seed of both cycle and independent was scored" in accuracy


def test_five_lines_when_the_difference_is_at_the_margin():
    close = compared(depth="not_shown").to_pylist()
    found = lines(comparisons=pa.Table.from_pylist([row | {"margin": 0.0301} for row in close]))
    assert "and even 50 seeds would not tell if these figures hold" in found[1]


def test_five_lines_when_the_answer_is_no():
    answer, accuracy, *_ = lines(comparisons=compared(depth="worse"))
    assert answer == "The full model's accuracy is not kept by cycle (42 % fewer parameters)."
    assert "cycle not met, loss +0.300 nats (interval +0.280 to +0.320)" in accuracy
    assert "would tell" not in accuracy


def test_five_lines_when_a_task_decides():
    accuracy = lines(comparisons=compared(task="worse"))[1]
    assert "not met, loss +0.020" in accuracy
    assert "difference of accuracy, task last_word -0.100 (may fall by 0.02)" in accuracy


def test_five_lines_say_that_a_task_is_not_shown():
    accuracy = lines(comparisons=compared(task="not_shown"))[1]
    assert "cycle met, loss +0.020 nats (interval +0.005 to +0.035), not shown for last_word;" in accuracy


def test_five_lines_when_variants_have_unlike_numbers_of_seeds():
    study = study_of(("albert", "cycle"))
    rows = compared(study).to_pylist()
    fewer = [row | {"seeds": 2} if row["variant"] == "albert" else row for row in rows]
    assert lines(study, pa.Table.from_pylist(fewer))[1].startswith("Accuracy (2 to 3 seeds, ")


def test_five_lines_when_the_variant_diverged():
    found = lines(trials=trained(diverged=[("cycle", 0)]))
    assert found[0] == "The full model's accuracy is not kept by cycle (42 % fewer parameters)."
    assert "cycle not met, training diverged with 1 of 2 seeds" in found[1]
    assert "cycle not met, training diverged with 1 of 2 seeds" in found[3]
    assert "asks for accuracy, which is not met" in found[4]


def test_five_lines_say_that_seeds_were_not_varied():
    answer, accuracy, _, _, rollout = lines(comparisons=compared(seeds=1))
    assert answer.startswith("Shown on one seed: cycle")
    assert "seeds were not varied" in accuracy
    assert rollout == (
        "Roll-out: cycle is ready for proof of concept but no further, "
        "since important workloads asks for 2 seeds and there are 1."
    )


@pytest.mark.parametrize(
    ("evidence", "asks"),
    [
        ({"trials": trained(tokens=4999)}, "everywhere asks for 5,000 training tokens and there are 4,999"),
        ({"comparisons": compared(parameters="worse")}, "asks for no loss at equal parameters, where it is worse"),
        ({"trials": trained(loss_spikes=1)}, "everywhere asks for upkeep, which is not met"),
    ],
)
def test_the_last_line_says_what_the_next_stage_asks_for(evidence, asks):
    rollout = lines(**evidence)[4]
    assert rollout.startswith("Roll-out: cycle is ready for important workloads but no further, since everywhere asks")
    assert asks in rollout
