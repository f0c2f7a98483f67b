"""Every constructor against schedules written out by hand from its source, and what it refuses."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharelm.errors import InputError
from sharelm.sharing import KINDS, SCHEMES, Atoms, Embedding, LowRank, Sharing, SoftTying, build_sharing
from sharelm.sharing.checks import check_shape
from tests.sharelm.models import SHAPE

# scheme, depth, its numbers, the attention schedule, the feed-forward schedule where it differs
BY_HAND = [
    ("independent", 1, {}, [0], None),
    ("independent", 4, {}, [0, 1, 2, 3], None),
    ("albert", 1, {}, [0], None),
    ("albert", 4, {}, [0, 0, 0, 0], None),
    ("sequence", 6, {"blocks": 3}, [0, 0, 1, 1, 2, 2], None),
    ("sequence", 12, {"blocks": 6}, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], None),
    ("sequence", 5, {"blocks": 2}, [0, 0, 0, 1, 1], None),
    ("sequence", 3, {"blocks": 3}, [0, 1, 2], None),
    ("cycle", 6, {"blocks": 3}, [0, 1, 2, 0, 1, 2], None),
    ("cycle", 5, {"blocks": 2}, [0, 1, 0, 1, 0], None),
    ("cycle", 2, {"blocks": 1}, [0, 0], None),
    ("cycle_reversed", 6, {"blocks": 3}, [0, 1, 2, 2, 1, 0], None),
    ("cycle_reversed", 9, {"blocks": 3}, [0, 1, 2, 0, 1, 2, 2, 1, 0], None),
    ("middle_cycle", 8, {"blocks": 5}, [0, 1, 2, 3, 1, 2, 3, 4], None),
    ("middle_cycle", 6, {"blocks": 4}, [0, 1, 2, 1, 2, 3], None),
    ("middle_sequence", 6, {"blocks": 4}, [0, 1, 1, 2, 2, 3], None),
    ("sandwich", 6, {}, [0, 1, 1, 1, 1, 2], None),
    ("sandwich", 3, {}, [0, 1, 2], None),
    ("prelude_core_coda", 8, {"prelude": 2, "core": 2, "coda": 2}, [0, 1, 2, 3, 2, 3, 4, 5], None),
    ("prelude_core_coda", 5, {"prelude": 0, "core": 1, "coda": 1}, [0, 0, 0, 0, 1], None),
    ("prelude_core_coda", 4, {"prelude": 1, "core": 3, "coda": 0}, [0, 1, 2, 3], None),
    ("attention_only", 4, {}, [0, 0, 0, 0], [0, 1, 2, 3]),
    ("attention_only", 4, {"blocks": 2}, [0, 1, 0, 1], [0, 1, 2, 3]),
    ("feed_forward_only", 4, {}, [0, 1, 2, 3], [0, 0, 0, 0]),
    ("feed_forward_only", 4, {"blocks": 2}, [0, 1, 2, 3], [0, 1, 0, 1]),
    ("relaxed", 6, {"blocks": 3, "rank": 2}, [0, 1, 2, 0, 1, 2], None),
    ("residual", 6, {"blocks": 3, "rank": 2}, [0, 0, 1, 1, 2, 2], None),
    ("transpose", 3, {}, [0, 1, 2], None),
    ("atoms", 4, {"blocks": 2}, [0, 1, 0, 1], None),
    ("masa", 4, {"blocks": 2}, [0, 1, 0, 1], [0, 1, 2, 3]),
    ("late_loop", 8, {"first": 2, "last": 3}, [0, 1, 2, 3, 2, 3, 4, 5], None),
    ("late_loop", 2, {"first": 0, "last": 0}, [0, 0], None),
    ("huginn", 6, {"prelude": 1, "core": 2, "coda": 1}, [0, 1, 2, 1, 2, 3], None),
]

# scheme, what it has on top of its schedules
DEGREES = {
    "relaxed": {"low_rank": LowRank(2, 2, start="svd")},
    "residual": {"low_rank": LowRank(2, 2), "diagonal": KINDS},
    "transpose": {"ties": KINDS},
    "atoms": {"atoms": Atoms("learned", "learned"), "norms": "per_depth"},
    "masa": {"atoms": Atoms(attention="learned"), "norms": "per_depth"},
    "late_loop": {"late": 0.5},
    "huginn": {"injection": "linear"},
}


@pytest.mark.parametrize(("scheme", "depth", "numbers", "attention", "feed_forward"), BY_HAND)
def test_schedule_is_the_one_written_by_hand(scheme, depth, numbers, attention, feed_forward):
    sharing = build_sharing(scheme, depth, **numbers)
    assert list(sharing.attention) == attention
    assert list(sharing.feed_forward) == (attention if feed_forward is None else feed_forward)
    assert sharing.depth == depth
    assert sharing == Sharing(sharing.attention, sharing.feed_forward, **DEGREES.get(scheme, {}))


def test_every_scheme_is_written_by_hand():
    assert {scheme for scheme, *_ in BY_HAND} == set(SCHEMES)


REFUSED = [
    ("alber", 4, {}, "scheme = 'alber' is not known"),
    ("albert", 4, {"blocks": 2}, "blocks = 2: scheme 'albert' takes no numbers"),
    ("cycle", 4, {}, "scheme 'cycle' needs blocks"),
    ("cycle", 4, {"blocks": 0}, "blocks = 0 must lie between 1 and the depth, 4"),
    ("sequence", 4, {"blocks": 5}, "blocks = 5 must lie between 1 and the depth, 4"),
    ("cycle_reversed", 4, {"blocks": 5}, "blocks = 5 must lie between"),
    ("attention_only", 4, {"blocks": 5}, "blocks = 5 must lie between"),
    ("feed_forward_only", 4, {"blocks": 0}, "blocks = 0 must lie between"),
    ("middle_cycle", 6, {"blocks": 2}, "blocks = 2 at depth 6: first, last and middle need at least 3"),
    ("middle_sequence", 6, {"blocks": 7}, "blocks = 7 must lie between 1 and the depth, 6"),
    ("sandwich", 2, {}, "at depth 2"),
    ("prelude_core_coda", 8, {"prelude": 1, "core": 2, "coda": 2}, "core = 2 does not divide the 5 depths left"),
    ("prelude_core_coda", 4, {"prelude": 2, "core": 1, "coda": 2}, "core = 1 does not divide the 0 depths left"),
    ("prelude_core_coda", 4, {"prelude": -1, "core": 1, "coda": 2}, "prelude = -1"),
    ("late_loop", 8, {"first": 3, "last": 2}, "first = 3, last = 2: with 8 depths"),
    ("late_loop", 4, {"first": 0, "last": 2}, "first = 0, last = 2: with 4 depths"),
    ("prelude_core_coda", 4, {"prelude": 1, "core": 1}, "scheme 'prelude_core_coda' needs coda"),
]


@pytest.mark.parametrize(("scheme", "depth", "numbers", "sentence"), REFUSED)
def test_what_a_scheme_cannot_build_is_refused_by_name_and_value(scheme, depth, numbers, sentence):
    with pytest.raises(InputError) as error:
        build_sharing(scheme, depth, **numbers)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("attention", "feed_forward", "sentence"),
    [
        ((), (), "attention is empty"),
        ((0, 1), (0,), "attention has 2 depths and feed_forward 1"),
        ((0, 2), (0, 1), "attention never reads stored block 1"),
        ((0, 1), (1, 1), "feed_forward never reads stored block 0"),
        ((0, -1), (0, 1), "attention[1] = -1 names a block that is not stored"),
    ],
)
def test_a_schedule_that_does_not_name_stored_blocks_is_refused(attention, feed_forward, sentence):
    with pytest.raises(InputError) as error:
        Sharing(attention, feed_forward)
    assert sentence in str(error.value)


CYCLE, PLAIN = build_sharing("cycle", 4, blocks=2), build_sharing("independent", 4)
COMPOSITIONS_REFUSED = [
    # what is composed, and words that the sentence must hold: the reason and the nearest choice
    (
        PLAIN,
        {"low_rank": LowRank(attention=2)},
        ["low_rank.attention = 2", "every attention block is read once"],
    ),
    (
        PLAIN,
        {"diagonal": ("feed_forward",)},
        ["diagonal names 'feed_forward'", "feed_forward block is read once"],
    ),
    (PLAIN, {"atoms": Atoms("learned")}, ["atoms.attention = 'learned'", "read once", "let the attention schedule"]),
    (CYCLE, {"atoms": Atoms("learned"), "ties": ("attention",)}, ["atoms.attention", "ties", "not both", "keep one"]),
    (CYCLE, {"low_rank": LowRank(attention=-1)}, ["low_rank.attention = -1", "at least 0"]),
    (CYCLE, {"low_rank": LowRank(2, 2, 0.0)}, ["low_rank.attention_scale = 0.0", "use low_rank.attention = 0"]),
    (CYCLE, {"ties": ("attention", "attention")}, ["ties", "twice"]),
    (PLAIN, {"norms": "per_depth"}, ["norms = 'per_depth'", "no block is read twice", "use 'shared'"]),
    (PLAIN, {"injection": "linear"}, ["injection = 'linear'", "no block is read twice", "use 'none'"]),
    (PLAIN, {"kv": "first"}, ["kv = 'first'", "every attention block is read once", "use 'exact'"]),
    (PLAIN, {"soft": SoftTying(0.1)}, ["soft.weight = 0.1", "put no two depths together", "name a block twice"]),
    (CYCLE, {"soft": SoftTying(-1.0)}, ["soft.weight = -1.0", "at least 0"]),
    (CYCLE, {"soft": SoftTying(0.1), "low_rank": LowRank(2, 2)}, ["low_rank.attention = 2", "read once"]),
    (CYCLE, {"soft": SoftTying(0.1), "kv": "first"}, ["kv = 'first'", "use 'exact'"]),
    (CYCLE, {"streams": 0}, ["streams = 0", "at least 1"]),
    (CYCLE, {"late": 1.0}, ["late = 1.0", "at least 0", "below 1"]),
    (PLAIN, {"late": 0.5}, ["late = 0.5", "use late = 0"]),
    (build_sharing("attention_only", 4), {"late": 0.5}, ["late = 0.5", "one schedule for both kinds"]),
    (build_sharing("feed_forward_only", 4), {"kv": "last"}, ["kv = 'last'", "use 'exact'"]),
]


@pytest.mark.parametrize(("sharing", "degrees", "words"), COMPOSITIONS_REFUSED)
def test_a_composition_that_cannot_be_built_is_refused(sharing, degrees, words):
    with pytest.raises(InputError) as error:
        replace(sharing, **degrees)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("degrees", "words"),
    [
        ({"low_rank": LowRank(attention=33)}, ["low_rank.attention = 33 is above the width", "32 is full rank"]),
        ({"low_rank": LowRank(feed_forward=99)}, ["low_rank.feed_forward = 99", "32 is full rank"]),
        ({"ties": ("attention",)}, ["kv_heads = 2 is not heads = 4", "model.kv_heads = 4", "['feed_forward']"]),
        ({"embedding": Embedding(width=32)}, ["embedding.width = 32 must lie between 1 and 31"]),
    ],
)
def test_what_a_shape_cannot_build_is_refused(degrees, words):
    with pytest.raises(InputError) as error:
        check_shape(SHAPE, replace(CYCLE, **degrees))
    for word in words:
        assert word in str(error.value)


def test_only_depths_that_read_a_looped_block_have_deltas():
    sharing = replace(build_sharing("middle_cycle", 6, blocks=4), low_rank=LowRank(1, 1), kv="first")
    assert sharing.attention == (0, 1, 2, 1, 2, 3)
    assert sharing.delta_depths("attention", "query") == [1, 2, 3, 4]
    assert sharing.delta_depths("attention", "key") == [1, 2]  # later loops have no keys of their own
    assert sharing.loop_starts == [1, 3]
    assert sharing.cache_slots == (0, 1, 2, 1, 2, 3)


@given(st.integers(1, 40), st.data())
def test_sequence_and_cycle_use_every_block_about_equally_often(depth, data):
    blocks = data.draw(st.integers(1, depth))
    for scheme in ("sequence", "cycle"):
        schedule = build_sharing(scheme, depth, blocks=blocks).attention
        uses = [schedule.count(block) for block in range(blocks)]
        assert sum(uses) == depth
        assert max(uses) - min(uses) <= 1


@given(st.integers(1, 40), st.data())
def test_one_depth_a_block_is_no_sharing(depth, data):
    blocks = data.draw(st.integers(1, depth))
    for scheme in ("sequence", "cycle", "attention_only", "feed_forward_only"):
        assert build_sharing(scheme, depth, blocks=blocks).is_independent == (blocks == depth)
