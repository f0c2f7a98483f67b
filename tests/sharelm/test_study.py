"""A study's tree: what it refuses and how it says so; its arms, twins and trials."""

import copy
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharelm.errors import InputError
from sharelm.sharing import SCHEMES, build_sharing
from sharelm.study import expand, load_study
from sharelm.study.load import parse_study, study_from_tree

QUICKSTART = Path(__file__).parents[1] / "study.toml"
TREE = tomllib.loads(QUICKSTART.read_text(encoding="utf-8"))


def changed(**settings_at):
    """The quickstart with values set at dotted places (`__` for the dot, numbers index lists; None removes)."""
    tree = copy.deepcopy(TREE)
    for place, value in settings_at.items():
        *path, last = (int(key) if key.isdigit() else key for key in place.split("__"))
        node = tree
        for key in path:
            node = node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    return tree


def refusal(**settings_at):
    with pytest.raises(InputError) as caught:
        study_from_tree(changed(**settings_at), "asked.toml")
    message = str(caught.value)
    assert message.startswith("asked.toml: ")
    assert "\n" not in message
    return message


TUNE = {"learning_rates": [1e-2, 1e-3, 3e-3], "tokens": 40_960}
OPEN = {"name": "open", "kind": "generation", "file": "open.jsonl", "max_new_tokens": 8}
REFUSED = [
    # what is set, and words that the sentence must hold
    ({"training__tokns": 5}, ["training.tokns", "did you mean 'tokens'"]),
    ({"modell": {}}, ["modell", "did you mean 'model'"]),
    ({"variant__0__block": 2}, ["variant[0].block", "did you mean 'blocks'"]),
    ({"evaluation__task__1__max_item": 2}, ["evaluation.task[1].max_item", "'max_items'"]),
    ({"rollout__everywhere__seed": 2}, ["rollout.everywhere.seed", "'seeds'"]),
    ({"model": None}, ["model is missing"]),
    ({"cost__price_per_hour": None}, ["cost.price_per_hour is missing"]),
    ({"variant__0__scheme": "albrt"}, ["variant[0]", "'albrt'", "did you mean 'albert'"]),
    ({"variant__1__blocks": None}, ["'cycle'", "needs blocks"]),
    ({"variant__0__blocks": 2}, ["'albert'", "blocks = 2", "takes no numbers"]),
    ({"variant__1__blocks": 5}, ["'cycle'", "blocks = 5", "the depth, 4"]),
    ({"variant__1__blocks": 4}, ["'cycle'", "shares nothing"]),
    ({"variant__1__name": "albert"}, ["variant 'albert' is there 2 times"]),
    ({"variant__0__name": "a/b"}, ["variant[0].name", "'a/b'"]),
    ({"variant__0__name": "independent"}, ["variant[0].name", "'independent'"]),
    ({"variant__0__name": "independent-L2"}, ["variant[0].name", "'independent-L2'"]),
    ({"variant__0": {"name": "own"}}, ["variant[0]", "either scheme, or both attention and feed_forward"]),
    ({"variant__0__attention": [0, 0, 0, 0]}, ["variant[0]", "one says it all"]),
    ({"study__seeds": [1, 1]}, ["study.seeds", "[1, 1]", "not two runs"]),
    ({"study__seeds": []}, ["study.seeds"]),
    ({"study__name": "../up"}, ["study.name", "'../up'"]),
    ({"model__heads": 256}, ["model", "heads = 256 is more than width = 128"]),
    ({"model__heads": 3}, ["heads = 3 does not divide width = 128"]),
    ({"model__kv_heads": 3}, ["kv_heads = 3 does not divide heads = 4"]),
    ({"model__heads": 128, "model__kv_heads": 128}, ["width / heads = 1 is odd"]),
    ({"training__tokens": 204_801}, ["tokens = 204801 is not a multiple of tokens_per_step = 2048"]),
    (
        {"training__tokens_per_step": 100, "training__tokens": 10_000},
        ["tokens_per_step = 100", "of 128 tokens"],
    ),
    ({"training__workers": 3}, ["training.tokens_per_step = 2048", "3 workers"]),
    ({"training__sequences_per_pass": 3}, ["training.sequences_per_pass = 3", "16 sequences"]),
    ({"training__warmup_steps": 100}, ["warmup_steps = 100", "only 100 steps"]),
    ({"training__zero_stage": 4}, ["training.zero_stage = 4"]),
    (
        {"training__zero_stage": 3, "variant__0": {"name": "late", "scheme": "late_loop", "first": 1, "last": 1}},
        ["variant 'late' has a late loop", "zero_stage = 3", "use 0, 1 or 2"],
    ),
    ({"training__zero_stage": 1, "training__optimizer": "muon"}, ["zero_stage = 1", "optimizer = 'muon'"]),
    ({"training__zero_stage": 0, "training__offload_optimizer": True}, ["zero_stage = 0", "offload_optimizer = true"]),
    ({"training__optimizer": "muon", "training__offload_optimizer": True}, ["optimizer = 'muon'", "use 'adamw'"]),
    ({"training__trials_per_gpu": 2, "training__workers": 2}, ["trials_per_gpu = 2", "workers = 2", "'auto'"]),
    ({"training__trials_per_gpu": 9}, ["training.trials_per_gpu"]),
    ({"training__activation_checkpointing": "reentrant"}, ["'reentrant'", "'non_reentrant'"]),
    ({"training__learning_rate": float("inf")}, ["training.learning_rate"]),
    ({"kpi__accuracy__loss_margin_nats": -0.1}, ["kpi.accuracy.loss_margin_nats = -0.1"]),
    ({"kpi__inference_cost__memory_ratio_max": 0}, ["kpi.inference_cost.memory_ratio_max = 0"]),
    ({"cost__price_per_hour": -1}, ["cost.price_per_hour = -1"]),
    ({"cost__currency": "euro"}, ["cost.currency = 'euro'"]),
    ({"cost__workload__0__prompt_tokens": 100}, ["cost.workload 'chat'", "132", "model.context = 128"]),
    ({"data__source__0__uri": "books.txt"}, ["data.source[0]", "domain is missing"]),
    ({"data__source__0__document_start": "("}, ["data.source[0].document_start = '('", "not a regular expression"]),
    ({"data__vocabulary": 256}, ["data.vocabulary = 256"]),
    ({"data__validation_fraction": 1.0}, ["data.validation_fraction = 1.0"]),
    ({"evaluation__task__1__name": "held_out"}, ["task 'held_out' is there 2 times"]),
    ({"evaluation__task__0__kind": "cloze"}, ["exactly one task of kind bits_per_byte"]),
    ({"evaluation__task__1__kind": "clozze"}, ["task[1].kind = 'clozze'", "no such kind", "did you mean 'cloze'?"]),
    ({"evaluation__task__1__kind": "summary"}, ["no such kind of task; there are bits_per_byte, cloze, multiple"]),
    ({"evaluation__task__1__kind": "generation"}, ["'last_word' is generation, which needs file"]),
    (
        {"evaluation__task__1": OPEN | {"max_new_tokens": None}},
        ["task 'open' is generation, which needs max_new_tokens"],
    ),
    (
        {"evaluation__task__1": OPEN | {"max_new_tokens": 128}},
        ["'open'", "max_new_tokens = 128", "model.context = 128"],
    ),
    ({"evaluation__task__1": OPEN | {"stop": [""]}}, ["evaluation.task[1].stop[0] = ''"]),
    ({"evaluation__task__1__stop": ["a"]}, ["'last_word' is cloze, which takes no stop"]),
    ({"evaluation__task__1__max_new_tokens": 3}, ["'last_word' is cloze, which takes no max_new_tokens"]),
    ({"evaluation__task__1__kind": "multiple_choice"}, ["'last_word' is multiple_choice, which needs file"]),
    ({"evaluation__task__1__file": "a.jsonl"}, ["'last_word' is cloze, which takes no file"]),
    ({"twins__axes": ["parameters"], "rollout__everywhere__axes": []}, ["twins.axes lacks 'depth'"]),
    ({"twins__axes": ["depth"]}, ["rollout.everywhere.axes names 'parameters'"]),
    ({"training__tune": {**TUNE, "token": 1}}, ["training.tune.token is not", "did you mean 'tokens'"]),
    ({"training__tune": {"tokens": 40_960}}, ["training.tune.learning_rates is missing"]),
    ({"training__tune": {**TUNE, "learning_rates": [3e-3, 1e-2]}}, ["training.tune.learning_rates", "at least 3"]),
    ({"training__tune": {**TUNE, "learning_rates": [3e-3, 3e-3, 1e-2]}}, ["training.tune", "twice is one try"]),
    ({"training__tune": {**TUNE, "learning_rates": [0, 3e-3, 1e-2]}}, ["training.tune.learning_rates[0] = 0"]),
    ({"training__tune": {**TUNE, "choose": "best"}}, ["training.tune.choose = 'best'", "'grid' or 'parabola'"]),
    ({"training__tune": {**TUNE, "tokens": 40_961}}, ["training", "tune.tokens = 40961", "tokens_per_step = 2048"]),
    ({"training__tune": {**TUNE, "tokens": 2048}}, ["training", "tune.tokens = 2048 is one step"]),
    ({"training__tune": {**TUNE, "tokens": 409_600}}, ["tune.tokens = 409600 is more than tokens = 204800"]),
    ({"training__tune": TUNE, "training__learning_rate": 2e-3}, ["learning_rate = 0.002 is not among tune."]),
]

# degrees, and what is wrong with them; on the cycle unless a scheme is named
REFUSED += [
    ({f"variant__1__{key}": value for key, value in given.items()}, ["variant", *words])
    for given, words in [
        ({"low_rank": {"attention": 129}}, ["'cycle'", "low_rank.attention = 129 is above the width", "128 is full"]),
        ({"low_rank": {"attn": 2}}, ["variant[1].low_rank.attn is not a known key", "did you mean 'attention'"]),
        ({"low_rank": {"attention": 2, "start": "sdv"}}, ["variant[1].low_rank.start = 'sdv'", "'zero' or 'svd'"]),
        ({"atoms": {"attention": "learned"}, "ties": ["attention"]}, ["'cycle'", "not both", "keep one"]),
        ({"ties": ["attention"]}, ["'cycle'", "kv_heads = 2 is not heads = 4", "model.kv_heads = 4"]),
        ({"ties": ["attn"]}, ["variant[1].ties[0] = 'attn'"]),
        ({"scheme": "independent", "blocks": None, "low_rank": {"attention": 4}}, ["'cycle'", "read once"]),
        ({"scheme": "attention_only", "low_rank": {"feed_forward": 4}}, ["every feed_forward block is read once"]),
        ({"scheme": "feed_forward_only", "kv": "first"}, ["kv = 'first'", "use 'exact'"]),
        ({"embedding": {"width": 128}}, ["embedding.width = 128", "between 1 and 127"]),
        ({"rank": 3}, ["'cycle'", "rank = 3", "takes blocks"]),
        ({"scheme": "relaxed"}, ["'cycle'", "'relaxed' needs rank"]),
        ({"scheme": "independent", "blocks": None}, ["'cycle'", "shares nothing"]),
    ]
]


def test_a_named_scheme_and_its_value_spelled_out_are_the_same():
    low_rank = {"attention": 4, "feed_forward": 4, "start": "svd"}
    named = {"name": "named", "scheme": "relaxed", "blocks": 2, "rank": 4}
    composed = {"name": "composed", "scheme": "cycle", "blocks": 2, "low_rank": low_rank}
    spelled = {"name": "spelled", "attention": [0, 1, 0, 1], "feed_forward": [0, 1, 0, 1], "low_rank": low_rank}
    degrees_alone = {"name": "tied", "ties": ["feed_forward"]}
    study = study_from_tree(changed(variant=[named, composed, spelled, degrees_alone]), "asked")
    one, two, three, tied = (variant.sharing(4) for variant in study.variant)
    assert one == two == three
    assert tied == replace(build_sharing("independent", 4), ties=("feed_forward",))
    assert study_from_tree(study.tree(), "again") == study


@pytest.mark.parametrize(("settings_at", "words"), REFUSED, ids=[" ".join(case) for case, _ in REFUSED])
def test_one_sentence_names_field_and_value(settings_at, words):
    message = refusal(**settings_at)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("attention", "feed_forward", "words"),
    [
        ([0, 2, 2, 0], [0, 0, 1, 1], ["attention never reads stored block 1"]),
        ([0, -1, 0, 0], [0, 0, 1, 1], ["attention[1] = -1 names a block that is not stored"]),
        ([0, 0, 0, 0], [0, 0, 1], ["feed_forward has 3 entries but model.depth = 4"]),
    ],
)
def test_schedules_must_fit_what_is_stored(attention, feed_forward, words):
    message = refusal(variant__0={"name": "own", "attention": attention, "feed_forward": feed_forward})
    for word in ("variant 'own'", *words):
        assert word in message


def test_a_schedule_may_not_read_past_the_blocks_it_declares():
    own = {"name": "own", "blocks": 2, "attention": [0, 1, 2, 0], "feed_forward": [0, 1, 0, 1]}
    assert "attention[2] = 2 names a block that is not stored; 2 are (0 to 1)" in refusal(variant__0=own)


def test_a_misspelt_key_is_named_before_what_it_leaves_missing():
    message = refusal(training__tokens=None, training__token=5)
    assert "training.token is not a known key; did you mean 'tokens'" in message


def test_several_mistakes_are_counted():
    assert refusal(cost__price_per_hour=-1, model__width=-2).endswith("(and 1 more)")


def test_unreadable_files_are_one_sentence(tmp_path):
    cases = {"missing.toml": None, "latin.toml": "näme = 1".encode("latin-1"), "text.toml": b"not toml at all"}
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_study(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        load_study(tmp_path)


def test_the_tree_of_a_study_is_the_study():
    study = load_study(QUICKSTART)
    assert study_from_tree(study.tree(), "again") == study
    assert study.tree()["training"]["zero_stage"] == "auto"  # a default, filled in


def test_arms_trials_and_twins_of_the_quickstart():
    study = load_study(QUICKSTART)
    assert [(arm.name, arm.role) for arm in expand(study).arms] == [
        ("independent", "reference"),
        ("albert", "variant"),
        ("cycle", "variant"),
        ("independent-L1", "twin"),
        ("independent-L2", "twin"),
    ]
    assert [trial.name for trial in expand(study).trials] == [
        f"{arm}.s{seed}"
        for seed in (0, 1)
        for arm in ("independent", "albert", "cycle", "independent-L1", "independent-L2")
    ]
    assert [(pair.variant, pair.axis, pair.twin, pair.relative_error) for pair in expand(study).comparisons] == [
        ("albert", "depth", "independent", 0.0),
        ("albert", "parameters", "independent-L1", 0.0),
        ("cycle", "depth", "independent", 0.0),
        ("cycle", "parameters", "independent-L2", 0.0),
    ]


def test_two_variants_that_need_the_same_twin_share_it():
    tree = changed(variant__0={"name": "turned", "scheme": "cycle_reversed", "blocks": 2})
    names = [arm.name for arm in expand(study_from_tree(tree, "asked")).arms]
    assert names == ["independent", "turned", "cycle", "independent-L2"]


NUMBERS = {
    "albert": st.just({}),
    "sandwich": st.just({}),
    "prelude_core_coda": st.fixed_dictionaries(
        {"prelude": st.integers(0, 1), "core": st.just(1), "coda": st.integers(0, 1)}
    ),
}
NUMBERS["late_loop"] = st.just({"first": 1, "last": 1})
NUMBERS["transpose"] = NUMBERS["albert"]
NUMBERS["huginn"] = NUMBERS["prelude_core_coda"]
SHARED = sorted(set(SCHEMES) - {"independent"})


@st.composite
def studies(draw, scheme):
    """A study of one variant whose blocks are some tens of thousands of parameters or more."""
    heads = draw(st.sampled_from([2, 4, 8]))
    width = heads * draw(st.sampled_from([16, 32, 64]))
    depth = draw(st.integers(4, 16))
    numbers = draw(NUMBERS.get(scheme, st.fixed_dictionaries({"blocks": st.integers(3, depth - 1)})))
    if scheme in ("relaxed", "residual"):
        numbers["rank"] = draw(st.integers(1, 8))
    tree = changed(
        data__vocabulary=draw(st.integers(257, 4096)),
        model__width=width,
        model__depth=depth,
        model__heads=heads,
        model__kv_heads=heads if scheme == "transpose" else draw(st.sampled_from([1, 2])),
        model__feed_forward=draw(st.integers(2, 5)) * width,
        variant=[{"name": "shared", "scheme": scheme, **numbers}],
    )
    return study_from_tree(tree, "drawn")


@pytest.mark.parametrize("scheme", SHARED)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_twins_hold_their_axis_equal(scheme, data):
    study = data.draw(studies(scheme))
    by_name = {arm.name: arm for arm in expand(study).arms}
    assert len(by_name) == len(expand(study).arms)
    assert len({(arm.shape, arm.sharing) for arm in by_name.values()}) == len(by_name)
    for pair in expand(study).comparisons:
        variant, twin = by_name[pair.variant], by_name[pair.twin]
        assert twin.sharing.is_independent
        assert (twin.shape.width, twin.shape.heads, twin.shape.context) == (
            variant.shape.width,
            variant.shape.heads,
            variant.shape.context,
        )
        if pair.axis == "depth":
            assert twin.sharing.depth == variant.sharing.depth
            assert twin.shape == variant.shape
        else:
            stored = twin.footprint.stored_parameters
            assert stored == pair.reached
            assert abs(stored / variant.footprint.stored_parameters - 1) < 0.01
            assert abs(pair.relative_error) < 0.01


def test_toml_errors_name_the_place():
    with pytest.raises(InputError, match=r"asked\.toml is not TOML: .*line 2"):
        parse_study("[study]\nname = what\n", "asked.toml")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "examples").glob("*.toml")), ids=lambda p: p.name)
def test_every_example_is_a_study(path):
    study = load_study(path)
    assert study.name == path.stem
    assert len(expand(study).comparisons) == len(study.variant) * len(study.twins.axes)


def test_each_part_of_a_study_loads_by_itself():
    for module in ("load", "tree", "variant", "describe"):
        code = f"import sys, sharelm.study.{module}; assert not {{'torch', 'pyarrow', 'numpy'}} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)
