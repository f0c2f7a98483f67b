"""The split: held against exact Jaccard similarities computed from plain sets of words."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharelm.data.documents import Document
from sharelm.data.split import near_duplicates, split_documents

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def prose(seed: int, words: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def edited(text: str, seed: int, edits: int) -> str:
    rng = random.Random(seed)
    words = text.split()
    for _ in range(edits):
        words[rng.randrange(len(words))] = f"edit{rng.randrange(10**9)}"
    return " ".join(words)


def jaccard(one: str, other: str) -> float:
    first, second = ({tuple(text.split()[i : i + 5]) for i in range(len(text.split()) - 4)} for text in (one, other))
    return len(first & second) / len(first | second)


def side_of(documents: list[Document], fraction: float = 0.3, similarity: float = 0.8) -> dict[str, str]:
    split = split_documents(documents, fraction, similarity)
    return {d.digest: "training" for d in split.training} | {d.digest: "validation" for d in split.validation}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12), st.sampled_from([0.5, 0.8, 0.9]))
def test_no_near_duplicate_made_by_word_edits_straddles(seed, edits, similarity):
    originals = [prose(seed + i) for i in range(12)]
    texts = [*originals, *(edited(text, seed + i, edits) for i, text in enumerate(originals))]
    sides = side_of([Document("d", text) for text in texts], similarity=similarity)
    for one, other in combinations(texts, 2):
        if jaccard(one, other) >= similarity:
            assert sides[Document("d", one).digest] == sides[Document("d", other).digest]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.8]))
def test_clusters_are_the_connected_components_of_exact_similarity(seed, similarity):
    rng = random.Random(seed)
    texts = [prose(seed + i) for i in range(6)]
    texts += [edited(rng.choice(texts), seed + i, rng.randrange(1, 15)) for i in range(20)]
    component = {i: {i} for i in range(len(texts))}
    for i, j in combinations(range(len(texts)), 2):
        if jaccard(texts[i], texts[j]) >= similarity and component[i] is not component[j]:
            joined = component[i] | component[j]
            component.update(dict.fromkeys(joined, joined))
    expected = sorted({tuple(sorted(each)) for each in component.values() if len(each) > 1})
    assert [tuple(each) for each in near_duplicates(texts, similarity)] == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_order_and_new_documents_move_none(seed, rng):
    documents = [Document("d", prose(seed + i, words=30)) for i in range(30)]
    sides = side_of(documents)
    shuffled = list(documents)
    rng.shuffle(shuffled)
    assert side_of(shuffled) == sides
    more = side_of([*documents, *(Document("d", prose(-seed - i - 1, words=30)) for i in range(30))])
    assert {digest: more[digest] for digest in sides} == sides


def test_the_fraction_is_reached():
    sides = list(side_of([Document("d", prose(i, words=20)) for i in range(2000)], fraction=0.2).values())
    assert 0.17 < sides.count("validation") / len(sides) < 0.23  # five standard errors are 0.045


def test_exact_duplicates_are_dropped_whatever_their_white_space():
    documents = [Document("d", text) for text in ("one two\n three", "one two three", "x")]
    split = split_documents(documents, 0.5, 0.8)
    assert split.exact_duplicates_dropped == 1
    assert len(split.training) + len(split.validation) == 2


def test_a_validation_document_is_dropped_from_training_when_splits_are_fixed():
    text, other = prose(1), prose(2)
    near = edited(text, 1, 2)
    assert jaccard(text, near) >= 0.8
    fixed = [
        Document("d", text, "validation"),
        Document("d", text, "training"),
        Document("d", near, "training"),
        Document("d", other, "training"),
    ]
    split = split_documents(fixed, 0.5, 0.8)
    assert [d.text for d in split.validation] == [text]
    assert [d.text for d in split.training] == [other]
    assert (split.exact_duplicates_dropped, split.near_duplicates_dropped) == (1, 1)


def test_a_fixed_training_document_takes_its_near_duplicates_along():
    for seed in range(20):
        text = prose(seed)
        split = split_documents([Document("d", text, "training"), Document("d", edited(text, 1, 2))], 0.99, 0.8)
        assert len(split.training) == 2


@pytest.mark.parametrize("texts", [["a", "b"], ["a b", "a b c"], ["...", "!!!"], ["a b c d e", "a b c d f"]])
def test_documents_of_a_few_words_are_compared(texts):
    found = near_duplicates([*texts, texts[0] + "."], 0.8)
    same_words = texts[0].strip(".!") == texts[1].strip(".!")
    assert found == ([[0, 1, 2]] if same_words else [[0, 2]])


def test_a_document_of_many_shingles_is_sketched_in_parts():
    long = prose(1, words=150_000)
    assert near_duplicates([long, edited(long, 1, 500), prose(2, words=150_000)], 0.8) == [[0, 1]]
