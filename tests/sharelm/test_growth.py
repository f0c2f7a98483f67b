"""A study may grow, never change; the record of it, on a folder and on a real S3 server."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sharelm.errors import InputError, IntegrityError
from sharelm.steps import rule_digest
from sharelm.store import open_store
from sharelm.store.studies import latest_study, record_study, recorded_rule
from sharelm.study import load_study
from sharelm.study.growth import changes
from sharelm.study.load import study_from_tree

QUICKSTART = load_study(Path(__file__).parents[1] / "study.toml")


def edited(edit):
    tree = copy.deepcopy(QUICKSTART.tree())
    edit(tree)
    return study_from_tree(tree, "edited").tree()


def put(path, value):
    """An edit that sets one field, `a.b.0.c`."""

    def edit(tree):
        *above, last = path.split(".")
        for key in above:
            tree = tree[int(key) if key.isdigit() else key]
        tree[int(last) if last.isdigit() else last] = value

    return edit


GROWTH = {
    "a variant": lambda t: t["variant"].append({"name": "sandwich", "scheme": "sandwich"}),
    "a variant before the others": lambda t: t["variant"].insert(0, {"name": "sandwich", "scheme": "sandwich"}),
    "variants in another order": lambda t: t["variant"].reverse(),
    "a seed": lambda t: t["study"]["seeds"].insert(0, 7),
    "a task": lambda t: t["evaluation"]["task"].append({"name": "more", "kind": "cloze"}),
    "a workload": lambda t: t["cost"]["workload"].append(t["cost"]["workload"][0] | {"name": "more"}),
}
FREE = {
    "training.trials_per_gpu": 2,
    "limits.device_hours": 8.0,
    "limits.money": 8.0,
    "training.workers": 2,
    "training.cpus_per_worker": 1,
    "training.sequences_per_pass": 4,
    "training.trials_per_group": 1,
    "training.placement": "spread",
    "training.max_failures": 0,
    "training.stall_timeout_s": 60,
    "training.checkpoint_steps": 7,
    "evaluation.tokens_per_batch": 512,
    "evaluation.task.0.shards": 3,
    "cost.assumed_tflops": 9.5,
    "power.wanted": 0.9,
    "power.true_difference_nats": 0.001,
}
PRIOR = {"power.seed_spread_nats": 0.01, "power.document_spread_nats": 0.1, "power.documents": 400}  # free together
CHANGES = {
    "training.tokens": (409_600, ["training.tokens = 204800, now 409600"]),
    "training.weight_decay": (0.2, ["training.weight_decay = 0.1, now 0.2"]),
    "model.depth": (8, ["model.depth = 4, now 8"]),
    "data.source.0.max_bytes": (None, ["data.source[0].max_bytes = 3000000, now not set"]),
    "data.tokenizer": ("t.json", ["data.tokenizer not set, now 't.json'"]),
    "variant.1.blocks": (4 // 4, ["variant[cycle].blocks = 2, now 1"]),
    "study.seeds": ([1, 2], ["study.seeds 0, now gone"]),
    "evaluation.task.1.max_items": (50, ["evaluation.task[last_word].max_items = 200, now 50"]),
    "cost.workload.0.repeats": (3, ["cost.workload[chat].repeats = 10, now 3"]),
    "cost.price_per_hour": (0.2, ["cost.price_per_hour = 0.1, now 0.2"]),
    "kpi.accuracy.loss_margin_nats": (0.5, ["kpi.accuracy.loss_margin_nats = 0.05, now 0.5"]),
    "rollout.proof_of_concept.axes": (["depth"], ["rollout.proof_of_concept.axes = [], now ['depth']"]),
}


@pytest.mark.parametrize("edit", GROWTH.values(), ids=GROWTH)
def test_growth_is_no_change(edit):
    assert changes(QUICKSTART.tree(), edited(edit)) == []


def test_an_added_axis_is_growth_and_a_dropped_one_is_not():
    fewer = edited(lambda t: (t["twins"].update(axes=["depth"]), t["rollout"]["everywhere"].update(axes=[])))
    more = edited(lambda t: t["rollout"]["everywhere"].update(axes=[]))
    assert changes(fewer, more) == []
    assert changes(more, fewer) == ["twins.axes 'parameters', now gone"]


def test_a_ladder_may_gain_rungs_and_lose_none():
    short, long = (edited(put("twins.ladder", rungs)) for rungs in ([3], [2, 3]))
    assert changes(QUICKSTART.tree(), short) == changes(short, long) == []
    assert changes(long, short) == ["twins.ladder 2, now gone"]


def test_the_workload_that_sets_the_memory_axis_stays_first():
    def served(axes, *names):
        def edit(tree):
            chat = tree["cost"]["workload"][0]
            tree["cost"]["workload"] = [chat | {"name": name} for name in names]
            tree["twins"]["axes"] += axes

        return edited(edit)

    assert changes(served([], "chat"), served([], "more", "chat")) == []
    assert changes(served(["memory"], "chat"), served(["memory"], "chat", "more")) == []
    assert changes(served(["memory"], "chat"), served(["memory"], "more", "chat")) == [
        "'chat' as the first cost.workload, which sets the memory axis, now 'more'"
    ]


@pytest.mark.parametrize(("path", "value"), FREE.items())
def test_how_the_work_is_cut_up_may_change(path, value):
    new = edited(put(path, value))
    assert new != QUICKSTART.tree()
    assert changes(QUICKSTART.tree(), new) == []


def test_what_only_the_plan_reckons_with_may_change():
    def edit(tree):
        for path, value in PRIOR.items():
            put(path, value)(tree)

    new = edited(edit)
    assert new != QUICKSTART.tree()
    assert changes(QUICKSTART.tree(), new) == []


@pytest.mark.parametrize(("path", "value", "expected"), [(path, *both) for path, both in CHANGES.items()])
def test_anything_else_is_a_change_and_named(path, value, expected):
    assert changes(QUICKSTART.tree(), edited(put(path, value))) == expected


def test_removed_and_added_sources_are_changes():
    another = {"uri": "x.txt", "domain": "books"}
    assert changes(QUICKSTART.tree(), edited(lambda t: t["data"]["source"].append(another))) == [
        "1 entries in data.source, now 2"
    ]
    assert changes(QUICKSTART.tree(), edited(lambda t: t["variant"].pop())) == ["variant 'cycle', now gone"]


def test_every_setting_is_either_free_or_a_change():
    """No field of the tree is forgotten: each differs as a change unless it is in the list above."""

    def leaves(value, path=""):
        if isinstance(value, dict):
            for key, below in value.items():
                yield from leaves(below, f"{path}.{key}".lstrip("."))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield from leaves(value[0], f"{path}.0")
        else:
            yield path

    tree = QUICKSTART.tree()
    growing = {"study.seeds", "twins.axes", "twins.ladder"}
    for path in leaves(tree):
        if path in growing:
            continue
        new = copy.deepcopy(tree)
        put(path, "something else")(new)
        assert bool(changes(tree, new)) != (path in {**FREE, **PRIOR}), path


def test_the_rule_is_that_of_the_first_revision(store_uri, monkeypatch):
    store = open_store(store_uri)
    assert recorded_rule(store, "quickstart") is None
    record_study(store, QUICKSTART, "q.toml")
    rule = recorded_rule(store, "quickstart")
    assert rule == rule_digest(QUICKSTART)
    monkeypatch.setattr("sharelm.store.studies.rule_digest", lambda _: "newer statistics")
    record_study(store, study_from_tree(edited(GROWTH["a variant"]), "q.toml"), "q.toml")
    assert recorded_rule(store, "quickstart") == rule


def test_the_rule_is_thresholds_and_the_code_that_judges(monkeypatch):
    rule = rule_digest(QUICKSTART)
    changed = study_from_tree(edited(put("kpi.accuracy.loss_margin_nats", 0.04)), "edited")
    grown = study_from_tree(edited(GROWTH["a variant"]), "edited")
    assert rule_digest(grown) == rule != rule_digest(changed)
    judged = []
    monkeypatch.setattr("sharelm.steps.code_digest", lambda *entries: judged.append(entries) or "other code")
    assert rule_digest(QUICKSTART) != rule
    assert judged == [("sharelm.statistics.compare:compare", "sharelm.verdict.decide:decide")]


def test_revisions_are_recorded_as_a_study_grows(store_uri):
    store = open_store(store_uri)
    assert latest_study(store, "quickstart") is None
    assert record_study(store, QUICKSTART, "q.toml") == 1
    assert record_study(store, QUICKSTART, "q.toml") == 1
    grown = study_from_tree(edited(GROWTH["a variant"]), "q.toml")
    assert record_study(store, grown, "q.toml") == 2
    assert latest_study(store, "quickstart") == grown
    assert store.studies() == ["quickstart"]
    record = json.loads(store.objects.get("studies/study=quickstart/revision-0001.json"))
    assert record["study"] == QUICKSTART.tree()


def test_a_changed_study_is_refused_in_one_sentence(store_uri):
    store = open_store(store_uri)
    record_study(store, QUICKSTART, "q.toml")

    def two(tree):
        put("training.learning_rate", 1e-3)(tree)
        tree["variant"].pop(0)

    with pytest.raises(InputError) as raised:
        record_study(store, study_from_tree(edited(two), "x"), "q.toml")
    assert str(raised.value) == (
        f"q.toml: study 'quickstart' was recorded in {store_uri} with variant 'albert', now gone (and 1 more change); "
        "a study may grow but not change: give it another name"
    )
    assert latest_study(store, "quickstart") == QUICKSTART


def test_studies_recorded_at_once_all_grow_or_are_refused(store_uri):
    """Each adds a seed of its own to what it read: exactly the chain of revisions that a queue would make, or less."""
    store = open_store(store_uri)
    record_study(store, QUICKSTART, "q.toml")
    studies = [study_from_tree(edited(put("study.seeds", [0, 1, *range(2, 2 + n)])), "x") for n in range(1, 7)]

    def record(study):
        try:
            return record_study(store, study, "q.toml")
        except InputError:
            return None

    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(record, studies))
    made = [number for number in numbers if number is not None]
    assert len(set(made)) == len(made)
    assert max(made) == 1 + len(made)
    assert latest_study(store, "quickstart") == studies[5]


def test_a_damaged_record_is_named(tmp_path):
    store = open_store(str(tmp_path))
    record_study(store, QUICKSTART, "q.toml")
    (tmp_path / "studies/study=quickstart/revision-0001.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"revision-0001\.json is not the record of a study"):
        latest_study(store, "quickstart")


def test_a_record_of_older_names_is_read_by_todays(tmp_path):
    """Settings that were renamed: what was recorded stays readable, and the study goes on under its name."""
    store = open_store(str(tmp_path))
    record_study(store, QUICKSTART, "q.toml")
    path = tmp_path / "studies/study=quickstart/revision-0001.json"
    record = json.loads(path.read_text())
    training = record["study"]["training"]
    training["schedule"] = training.pop("learning_rate_schedule")
    for variant in record["study"]["variant"]:
        variant["lanes"] = variant.pop("streams")
    path.unlink()
    path.write_text(json.dumps(record))
    assert latest_study(store, "quickstart") == QUICKSTART
    assert record_study(store, QUICKSTART, "q.toml") == 1
