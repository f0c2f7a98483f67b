"""Drawings of sharings against grids written by hand."""

from dataclasses import replace

import pytest

from sharelm.sharing import KINDS, Atoms, Embedding, LowRank, build_sharing
from sharelm.sharing.drawing import degrees, draw

BY_HAND = [
    (
        build_sharing("feed_forward_only", 3),
        """
depth    0 1 2
block 0  ■ F F
block 1  · A ·
block 2  · · A""",
    ),
    (
        replace(
            build_sharing("prelude_core_coda", 6, prelude=1, core=2, coda=1),
            low_rank=LowRank(attention=4, attention_scale=0.5),
            injection="additive",
            kv="first",
            late=0.5,
        ),
        """
depth      0 1 2 3 4 5
block 0    ■ · · · · ·
block 1    · ■ · ■ · ·
block 2    · · ■ · ■ ·
block 3    · · · · · ■
delta      · Δ Δ Δ Δ ·
injection  · · · ↓ · ·
keys of    0 1 2 1 2 5
after 50%  · · · + + ·
           attention: low-rank deltas of rank 4 x 0.5, started by zeros
           additive injection into every later loop
           keys and values of the first loop for all
           loops from 50% of training on""",
    ),
]


@pytest.mark.parametrize(("sharing", "grid"), BY_HAND)
def test_a_drawing_is_the_one_made_by_hand(sharing, grid):
    assert draw(sharing) == grid.removeprefix("\n")


def test_columns_line_up_beyond_nine_depths():
    lines = draw(build_sharing("albert", 12)).splitlines()
    assert lines[0] == "depth     0  1  2  3  4  5  6  7  8  9 10 11"
    assert lines[1] == f"block 0  {' ■' * 1}" + "  ■" * 11


def test_every_degree_is_said():
    everything = replace(
        build_sharing("cycle", 4, blocks=2),
        low_rank=LowRank(2, 3, start="svd"),
        diagonal=KINDS,
        atoms=Atoms(feed_forward="fixed"),
        ties=("attention",),
        norms="per_depth",
        depth_embedding=True,
        streams=3,
        embedding=Embedding("untied", 8),
        kv="last",
    )
    assert degrees(everything) == [
        "attention: low-rank deltas of rank 2, started by truncated SVD",
        "attention: diagonal deltas",
        "attention: value = key^T, output = query^T",
        "feed-forward: low-rank deltas of rank 3, started by truncated SVD",
        "feed-forward: diagonal deltas",
        "feed-forward: 2 atoms, coefficients fixed",
        "norm gains of each depth",
        "depth embeddings",
        "3 streams with hyper-connections",
        "embedding of width 8",
        "head not tied to the embedding",
        "keys and values of the last loop for all",
    ]
