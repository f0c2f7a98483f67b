import pyarrow as pa
import pytest

from sharelm.study.load import study_from_tree
from sharelm.tables import TABLES
from sharelm.words import headline
from tests.sharelm.verdict_helpers import STUDY, compared, served, study_of, trained, verdict


def lines(study=STUDY, comparisons=None, **evidence):
    comparisons = compared(study) if comparisons is None else comparisons
    found = [line.text for line in headline(study, verdict(study, comparisons, **evidence))]
    assert len(found) == 5
    assert all(line.endswith(".") and "\n" not in line and "None" not in line for line in found)
    return found


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
