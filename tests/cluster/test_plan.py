"""`sharelm plan`: figures against hand-written closed forms, and nothing spent or written."""

import json
import tarfile
from pathlib import Path

import pytest

from sharelm.statistics.power import Design, Spread, power

# The quickstart's shape, and its parameters counted by hand.
VOCABULARY, WIDTH, HEADS, KV_HEADS, HEAD, FEED_FORWARD, CONTEXT = 1024, 128, 4, 2, 32, 352, 128
ATTENTION = WIDTH * HEADS * HEAD * 2 + WIDTH * KV_HEADS * HEAD * 2 + WIDTH + 2 * HEAD
FEED_FORWARD_BLOCK = 3 * WIDTH * FEED_FORWARD + WIDTH
REST = VOCABULARY * WIDTH + WIDTH
# blocks stored, and depth, of each arm
ARMS = {"independent": (4, 4), "albert": (1, 4), "cycle": (2, 4), "independent-L1": (1, 1), "independent-L2": (2, 2)}


@pytest.fixture
def planned(sharelm, study_file):
    done = sharelm("plan", study_file(), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_figures_of_every_arm(planned):
    assert [arm["arm"] for arm in planned["arms"]] == list(ARMS)
    for arm in planned["arms"]:
        blocks, depth = ARMS[arm["arm"]]
        stored = blocks * (ATTENTION + FEED_FORWARD_BLOCK) + REST
        matrices = depth * (ATTENTION - WIDTH - 2 * HEAD + FEED_FORWARD_BLOCK - WIDTH)
        scores = 4 * depth * WIDTH * CONTEXT
        head = VOCABULARY * WIDTH
        assert arm["stored_parameters"] == stored
        assert arm["materialised_parameters"] == depth * (ATTENTION + FEED_FORWARD_BLOCK) + REST
        assert arm["training_flops_per_token"] == 3 * (2 * (matrices + head) + scores)
        assert arm["decode_flops_per_token"] == 2 * (matrices + head) + scores
        assert arm["prefill_flops_per_token"] == 2 * matrices + 2 * head // CONTEXT + scores
        kv = 2 * depth * KV_HEADS * HEAD
        assert arm["kv_bytes_per_token"] == {"fp32": 4 * kv, "bf16": 2 * kv}
        assert arm["checkpoint_bytes"] == {"fp32": 12 * stored, "bf16": 12 * stored}  # at ZeRO stage 0
        assert arm["optimizer_bytes_per_worker"] == 8 * stored
        assert arm["training_tokens"] == 204_800
        hours = arm["training_flops_per_token"] * 204_800 / 0.05e12 / 3600
        assert arm["estimated_training_hours"] == pytest.approx(hours)
        assert arm["estimated_training_cost"] == pytest.approx(hours * 0.10)


def test_memory_of_a_worker_at_every_stage(planned):
    """The largest arm's, in fp32: 16 bytes a parameter at stage 0, and what a pass of 16 rows leaves."""
    stored = 4 * (ATTENTION + FEED_FORWARD_BLOCK) + REST
    assert [need["stage"] for need in planned["memory"]["fp32"]] == [0, 1, 2, 3]
    assert planned["memory"].keys() == {"fp32", "bf16"}
    first = planned["memory"]["fp32"][0]
    assert first["arm"] == "independent"
    assert [first[part] for part in ("weights", "gradients", "optimizer")] == [4 * stored, 4 * stored, 8 * stored]
    assert first["logits"] == 2048 * VOCABULARY * 17 + VOCABULARY * WIDTH * 12
    held = sum(first[part] for part in ("weights", "gradients", "optimizer", "activations", "logits"))
    assert first["bytes"] == held
    assert all(
        arm["sent_bytes_per_step"] == {"fp32": 4 * arm["stored_parameters"], "bf16": 4 * arm["stored_parameters"]}
        for arm in planned["arms"]
    )


def test_schedules_twins_and_totals(planned):
    schedules = {arm["arm"]: arm["attention_schedule"] for arm in planned["arms"]}
    assert schedules["albert"] == [0, 0, 0, 0]
    assert schedules["cycle"] == [0, 1, 0, 1]
    assert {(p["variant"], p["axis"]): p["twin"] for p in planned["comparisons"]} == {
        ("albert", "depth"): "independent",
        ("albert", "parameters"): "independent-L1",
        ("cycle", "depth"): "independent",
        ("cycle", "parameters"): "independent-L2",
    }
    assert len(planned["trials"]) == planned["total"]["trials"] == 10
    assert planned["total"]["training_tokens"] == 10 * 204_800
    one_seed = sum(arm["estimated_training_hours"] for arm in planned["arms"])
    assert planned["total"]["estimated_training_hours"] == pytest.approx(2 * one_seed)


def test_shared_settings_leave_out_what_differs(planned):
    assert planned["shared"]["training"]["zero_stage"] == "auto"
    assert planned["shared"]["model"]["width"] == 128
    assert not {"depth", "feed_forward"} & planned["shared"]["model"].keys()
    assert "variant" not in planned["shared"]


def test_twins_on_every_axis(sharelm, study_file):
    axes = 'axes = ["depth", "parameters", "compute", "memory", "time"]\nladder = [3]'
    path = study_file(('axes = ["depth", "parameters"]', axes))
    planned = json.loads(sharelm("plan", path, "--json").stdout)
    by_name = {arm["arm"]: arm for arm in planned["arms"]}
    tokens, seeds = by_name["independent"]["training_tokens"], len({trial["seed"] for trial in planned["trials"]})
    for pair in planned["comparisons"]:
        if pair["axis"] == "compute":
            twin = by_name[pair["twin"]]
            flops = by_name[pair["variant"]]["training_flops_per_token"] * tokens
            assert twin["training_tokens"] == 2048 * round(flops / twin["training_flops_per_token"] / 2048)
            assert twin["training_steps"] == twin["training_tokens"] // 2048 > tokens // 2048
            assert (pair["target"], pair["reached"]) == (
                flops,
                twin["training_flops_per_token"] * twin["training_tokens"],
            )
        if pair["axis"] == "memory":  # the chat workload: 4 requests of 64 + 32 tokens; two bytes an element
            one, other = (
                2 * by_name[name]["stored_parameters"] + 4 * 96 * by_name[name]["kv_bytes_per_token"]["bf16"]
                for name in (pair["variant"], pair["twin"])
            )
            assert (pair["target"], pair["reached"]) == (one, other)
            assert abs(other / one - 1) < 0.01
    assert by_name["independent-L3"]["role"] == "rung"
    assert "tokens" not in planned["shared"]["training"]
    assert planned["total"]["training_tokens"] == seeds * sum(arm["training_tokens"] for arm in planned["arms"])
    assert planned["measured_when_it_runs"] == [
        {"variant": "albert", "axis": "time", "like": "independent-L1"},
        {"variant": "cycle", "axis": "time", "like": "independent-L2"},
    ]
    assert "measured when it runs" in sharelm("plan", path).stdout


def test_workers_share_the_hours_and_not_the_money(sharelm, study_file):
    two = study_file(("[training]\n", '[training]\nworkers = 2\ndevice = "gpu"\n'))
    one, both = (json.loads(sharelm("plan", path, "--json").stdout) for path in (study_file(name="one.toml"), two))
    assert both["total"]["estimated_training_hours"] == pytest.approx(one["total"]["estimated_training_hours"] / 2)
    assert both["total"]["estimated_training_cost"] == pytest.approx(one["total"]["estimated_training_cost"])
    assert both["arms"][0]["kv_bytes_per_token"].keys() == {"bf16"}


def test_text_says_what_is_assumed_and_writes_nothing(sharelm, study_file, tmp_path):
    path = study_file()
    done = sharelm("plan", path)
    assert done.returncode == 0
    assert "quickstart: 10 trials = 5 arms x seeds [0, 1]" in done.stdout
    assert "869,760" in done.stdout
    assert "0.05 TFLOP/s" in done.stdout
    assert "learning_rate = 0.003" in done.stdout
    assert list(tmp_path.iterdir()) == [path]


def test_a_store_says_what_is_there(sharelm, study_file, tmp_path):
    empty = sharelm("plan", study_file(), "--store", tmp_path / "store")
    assert "nothing of this study" in empty.stdout
    assert not (tmp_path / "store").exists()


def test_proxies_are_counted_and_shown(sharelm, study_file):
    node = "checkpoint_steps = 50\n[training.tune]\nlearning_rates = [1e-2, 1e-3, 3e-3]\ntokens = 40_960\n"
    axes = 'axes = ["depth", "parameters", "compute", "time"]'  # whose twins are two models
    path = study_file(("checkpoint_steps = 50\n", node), ('axes = ["depth", "parameters"]', axes))
    planned = json.loads(sharelm("plan", path, "--json").stdout)
    tuning, total, arms = planned["tuning"], planned["total"], {arm["arm"]: arm for arm in planned["arms"]}
    assert (tuning["models"], tuning["proxies"]) == (len(ARMS), 3 * len(ARMS))
    assert (tuning["steps_each"], tuning["warmup_steps"]) == (20, 2)  # a tenth, as of the 100 steps of training
    flops = 3 * 40_960 * sum(arms[name]["training_flops_per_token"] for name in ARMS)
    assert tuning["estimated_training_hours"] == pytest.approx(flops / 0.05e12 / 3600)
    trained = 2 * sum(arm["training_tokens"] for arm in planned["arms"])
    assert (total["proxies"], total["training_tokens"]) == (15, trained + 15 * 40_960)
    hours = 2 * sum(arm["estimated_training_hours"] for arm in planned["arms"])
    assert total["estimated_training_hours"] == pytest.approx(hours + tuning["estimated_training_hours"])
    assert "learning_rate" not in planned["shared"]["training"]
    said = sharelm("plan", path).stdout
    assert "5 models x [0.001, 0.003, 0.01] = 15 proxies\nof 40,960 tokens (20 steps, 2 of warm-up)" in said
    assert "for all trials and proxies" in said
    assert "Learning rates are not tuned" in sharelm("plan", study_file(name="plain.toml")).stdout


PRIOR = "[power]\nwanted = 0.9\nseed_spread_nats = 0.01\ndocument_spread_nats = 0.1\ndocuments = 400\n"


def test_without_pilot_or_prior_power_is_not_known_but_a_seeds_cost_is(sharelm, study_file, planned):
    found = planned["power"]
    assert (found["source"], found["rows"], found["family"]) == (None, [], 4)
    each = {figure: sum(arm[figure] for arm in planned["arms"]) for figure in found["one_more_seed"]}
    assert found["one_more_seed"] == pytest.approx(each)
    assert each["estimated_training_cost"] > 0
    said = sharelm("plan", study_file()).stdout
    assert "is not known: no pilot" in said
    assert "One more seed of every arm: " in said


def test_a_prior_gives_the_power_of_the_first_of_four_claims(sharelm, study_file):
    path = study_file(("[training]\n", f"{PRIOR}[training]\n"))
    found = json.loads(sharelm("plan", path, "--json").stdout)["power"]
    (row,) = found["rows"]
    assert (found["source"], found["confidence"]) == ("the prior of [power]", pytest.approx(0.9875))
    prior, margin = Spread(0.01, 0.1), found["margin_nats"]
    assert row["power"] == pytest.approx(power(prior, Design(5, 2, 400, 0.00625), margin))
    assert power(prior, Design(5, 2, 400, 0.00625), row["detectable_nats"]) == pytest.approx(0.9)
    seeds = row["seeds_needed"]
    assert power(prior, Design(5, seeds, 400, 0.00625), margin) >= 0.9
    said = sharelm("plan", path).stdout
    assert f"{row['detectable_nats']:.4f}" in said
    assert "90% from" in said


def test_a_committed_study_is_a_pilot(sharelm, study_file, tmp_path):
    """Its spread over seeds is that which `benchmarks.spreads` measured on the scores themselves."""
    root = Path(__file__).parents[2]
    with tarfile.open(root / "docs/results/english/store.tar.xz") as archive:
        archive.extractall(tmp_path / "store", filter="data")
    asked = ("plan", study_file(), "--store", tmp_path / "store", "--pilot", "english")
    found = json.loads(sharelm(*asked, "--json").stdout)["power"]
    measured = json.loads((root / "benchmarks/spreads.json").read_text())["loss"]
    assert {row["comparison"] for row in found["rows"]} == {"middle", "widest"}
    for row in found["rows"]:
        assert row["seed_spread_nats"] == pytest.approx(measured["seeds_nats"], rel=1e-6)
    assert found["documents"] == measured["documents"]
    middle, widest = (row["document_spread_nats"] for row in found["rows"])
    assert middle < widest
    assert "by the seeds of study english" in sharelm(*asked).stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--pilot", "english"], "give --store"), (["--pilot", "english", "--store", "{}"], "'english' is not in")],
)
def test_a_pilot_that_is_not_there_is_refused(sharelm, study_file, tmp_path, options, said):
    done = sharelm("plan", study_file(), *(option.format(tmp_path) for option in options))
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("power_table", "said"),
    [
        ("[power]\nseed_spread_nats = 0.01\n", "stand together"),
        (PRIOR.replace("400", "1"), "needs two documents"),
        ("[power]\ntrue_difference_nats = 0.05\n", "is not below"),
    ],
)
def test_a_prior_that_says_nothing_is_refused(sharelm, study_file, power_table, said):
    done = sharelm("plan", study_file(("[training]\n", f"{power_table}[training]\n")))
    assert done.returncode == 2
    assert said in done.stderr


def test_a_task_that_cannot_be_asked_is_refused(sharelm, study_file, tmp_path):
    own = '[[evaluation.task]]\nname = "own"\nkind = "harness"\nfile = "own.yaml"\n\n[[evaluation.task]]\n'
    text = Path(study_file()).read_text(encoding="utf-8")
    study = tmp_path / "own.toml"
    study.write_text(text.replace("[[evaluation.task]]\n", own, 1), encoding="utf-8")
    row = '{"q": "x", "choices": ["a", "b"], "gold": 1}\n'
    (tmp_path / "rows.jsonl").write_text(row + row.replace("1}", "5}"), encoding="utf-8")
    task = (
        "task: own\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: choices\ndoc_to_target: gold\n"
    )
    for written, sentence in (
        (None, "own.yaml cannot be read"),
        (f"{task}doc_to_txet: x\n", "doc_to_txet is no field of a task; did you mean 'doc_to_text'?"),
        (task, "document 2: the answer 5 is no index of its 2 choices"),
    ):
        if written is not None:
            (tmp_path / "own.yaml").write_text(written, encoding="utf-8")
        done = sharelm("plan", study)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("sharelm: ")
        assert sentence in line
    (tmp_path / "rows.jsonl").write_text(row, encoding="utf-8")
    assert sharelm("plan", study).returncode == 0
