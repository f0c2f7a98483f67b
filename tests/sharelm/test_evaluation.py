"""Scores against plain torch, closed forms and models that were taught the answer."""

import bz2
import json
import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharelm.data import open_corpus, prepare
from sharelm.errors import InputError
from sharelm.evaluation import Item, score, shard, task_items
from sharelm.evaluation.decoder import DecoderScorer
from sharelm.evaluation.items import DOCUMENTS, FILES, passages
from sharelm.model import Decoder
from sharelm.sharing import ModelShape, build_sharing
from sharelm.store import open_store
from sharelm.study.data import Data
from sharelm.study.evaluation import Task
from sharelm.tasks import TASK_KINDS
from tests.sharelm.models import decoder

SHAPE = ModelShape(vocabulary=320, width=32, heads=4, kv_heads=2, feed_forward=48, context=32)
SHARING = build_sharing("cycle", 2, blocks=1)
SHARED = Path(__file__).parents[2].parent / "shared" / "data"
BITS = Task(name="held_out", kind="bits_per_byte")
WORDS = [
    "stone",
    "river",
    "light",
    "seven",
    "green",
    "house",
    "never",
    "under",
    "paper",
    "music",
    "ocean",
    "table",
    "winter",
    "garden",
]


def sentences(number, count):
    """A text of sentences that no other number gives."""
    order = [WORDS[(number * 7 + i * (number + 3)) % len(WORDS)] for i in range(count)]
    return " ".join(f"{a} {number} {b} is {c}." for a, b, c in zip(order[::3], order[1::3], order[2::3], strict=False))


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A real corpus of two domains whose held-out documents are shorter and longer than the context."""
    folder = tmp_path_factory.mktemp("corpus")
    source = []
    for domain, first in (("prose", 0), ("code", 100)):
        for split, numbers, sizes in (("training", range(20), [90]), ("validation", range(20, 26), [6, 60, 300])):
            rows = [{"text": sentences(first + n, sizes[n % len(sizes)])} for n in numbers]
            path = jsonl(folder / f"{domain}-{split}.jsonl", rows)
            source.append({"uri": str(path), "domain": domain, "split": split})
    store = open_store(str(folder / "store"))
    data = Data.model_validate({"vocabulary": SHAPE.vocabulary, "source": source})
    return open_corpus(store, prepare(data, SHAPE.context, folder, store, "evaluation"))


def scored(model, corpus, items, tokens_per_batch):
    return score(DecoderScorer(model, corpus.tokenizer, tokens_per_batch), items)


def encode(corpus, text):
    return corpus.tokenizer.encode(text, add_special_tokens=False).ids


def asked(corpus, item, answer):
    """The (history, answer) tokens of an item and one of its answers."""
    return [corpus.end_of_text, *encode(corpus, item.context)], encode(corpus, item.answers[answer])


def chances(model, tokens):
    """Log probabilities [vocabulary] of what follows these tokens, by one plain pass."""
    with torch.inference_mode():
        return model(torch.tensor([tokens]))[0, -1].double().log_softmax(dim=-1)


def taught(rows, steps=300):
    """A model that was trained to say exactly these (history, answer) rows."""
    model = Decoder(SHAPE, SHARING).initialise(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(steps):
        loss = torch.zeros(())
        for history, answer in rows:
            text = torch.tensor([[*history, *answer]])[:, -SHAPE.context - 1 :]
            targets = text[:, 1:].clone()
            targets[:, : -len(answer)] = -100
            loss = loss + torch.nn.functional.cross_entropy(model(text[:, :-1])[0], targets[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.01 * len(rows):
            return model.eval()
    raise AssertionError(f"the model did not learn its answers: {loss}")


def test_bits_per_byte_equals_scoring_token_by_token(corpus):
    model = decoder(SHARING, SHAPE)
    items = task_items(BITS, corpus, None)
    rows = {row["document"]: row for row in scored(model, corpus, items, 500).to_pylist()}
    documents = corpus.validation().to_pylist()
    assert len(rows) == len(documents) == 12
    lengths = [len(document["tokens"]) for document in documents]
    assert min(lengths) < SHAPE.context < 3 * SHAPE.context < max(lengths)
    for document in documents:
        text, context = [corpus.end_of_text, *document["tokens"]], SHAPE.context
        nll = 0.0
        for target in range(1, len(text)):
            end = min(math.ceil(target / context) * context, len(text) - 1)  # last target of the window it is in
            nll -= chances(model, text[max(0, end - context) : target])[text[target]].item()
        row = rows[document["digest"]]
        assert row["nll_nats"] == pytest.approx(nll, rel=1e-5)
        assert (row["tokens"], row["bytes"]) == (len(document["tokens"]), len(document["text"].encode()))
        assert (row["domain"], row["item"], row["correct"]) == (document["domain"], 0, None)


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary(corpus):
    model = Decoder(SHAPE, SHARING).initialise(0)
    with torch.no_grad():
        model.embedding.zero_()
    rows = scored(model, corpus, task_items(BITS, corpus, None), 500)
    for nll, tokens in zip(rows["nll_nats"].to_pylist(), rows["tokens"].to_pylist(), strict=True):
        assert nll == pytest.approx(tokens * math.log(SHAPE.vocabulary), rel=1e-6)


@pytest.mark.parametrize("task", [BITS, Task(name="last", kind="cloze")])
def test_a_row_does_not_depend_on_its_batch_or_its_shard(corpus, task):
    model, items = decoder(SHARING, SHAPE), task_items(task, corpus, None)
    alone = scored(model, corpus, items, 1)
    for tokens_per_batch in (100, 777, 100_000):
        together = scored(model, corpus, items, tokens_per_batch)
        assert together.drop_columns(["nll_nats"]).equals(alone.drop_columns(["nll_nats"]))
        assert together["nll_nats"].to_pylist() == pytest.approx(alone["nll_nats"].to_pylist(), abs=1e-5, rel=1e-5)
    parts = [row for index in range(3) for row in scored(model, corpus, shard(items, index, 3), 777).to_pylist()]
    whole = {(row["document"], row["item"]): row for row in alone.to_pylist()}
    assert len(parts) == len(whole) == len(items)
    for row in parts:
        expected = whole[row["document"], row["item"]]
        assert row["nll_nats"] == pytest.approx(expected["nll_nats"], abs=1e-5, rel=1e-5)


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 6))
def test_every_item_is_in_one_shard_and_shards_are_balanced(sizes, count):
    items = [Item("d", str(n), n, "é", ("a" * size,), (size,)) for n, size in enumerate(sizes)]
    shards = [shard(items, index, count) for index in range(count)]
    assert sorted(item.item for part in shards for item in part) == list(range(len(items)))
    assert all([item.item for item in part] == sorted(item.item for item in part) for part in shards)
    loads = [sum(2 + sizes[item.item] for item in part) for part in shards]  # in UTF-8 bytes
    assert max(loads) - min(loads) <= 2 + max(sizes, default=0)


@pytest.mark.parametrize(
    ("ends", "word"),
    [
        ("to the north.", " north"),
        ("to the north . ", " north"),  # as WikiText separates its tokens
        ('"to the north." ', " north"),
        ("to the north\n", " north"),
        ("squadron No. 5 flew north.", " north"),  # an abbreviation before a number ends nothing
    ],
)
def test_a_passage_ends_with_the_last_word_of_a_sentence_or_line(ends, word):
    before = "word " * 80
    assert [found for _, found in passages(f"{before}{ends}\nNext ")] == [word]


def test_cloze_asks_for_the_last_word_of_held_out_passages(corpus):
    items = task_items(Task(name="last", kind="cloze"), corpus, None)
    texts = {row["digest"]: row["text"] for row in corpus.validation().to_pylist()}
    seen = dict.fromkeys(texts, 0)
    for item in sorted(items, key=lambda item: (item.document, item.item)):
        passage, (word,) = item.context, item.answers
        assert word[0] == " "
        assert word[1:].isalnum()
        assert len(passage) >= 300
        at = texts[item.document].index(passage + word, seen[item.document])  # in order, none overlapping
        seen[item.document] = at + len(passage + word)
        assert texts[item.document][seen[item.document]] == "."
        assert item.answer_bytes == (len(word),)
    long = [digest for digest, text in texts.items() if len(text) > 700]
    assert {item.document for item in items if item.item == 1} == set(long)


def test_at_most_so_many_items_spread_over_domains_and_documents(corpus):
    for kind in ("cloze", "bits_per_byte"):
        items = task_items(Task(name="t", kind=kind, max_items=4), corpus, None)
        assert [item.domain for item in items] == ["code", "prose", "code", "prose"]
        assert len({item.document for item in items}) == 4
        assert items == task_items(Task(name="t", kind=kind, max_items=4), corpus, None)


def test_a_model_taught_the_last_words_is_right_about_them(corpus):
    items = task_items(Task(name="last", kind="cloze", max_items=4), corpus, None)
    rows = [asked(corpus, item, 0) for item in items]
    assert all(len(history) > SHAPE.context for history, _ in rows)  # so that the latest history is what counts
    model = taught(rows)
    rows = scored(model, corpus, items, 500)
    assert rows["correct"].to_pylist() == [1.0] * 4
    assert max(rows["nll_nats"].to_pylist()) < 0.2
    assert scored(decoder(SHARING, SHAPE), corpus, items, 500)["correct"].to_pylist() != [1.0] * 4


QUESTIONS = [
    {"query": "The stone is in the", "choices": ["river", "light of the house", "sea"], "gold": 1},
    {"query": "Seven green\u2028houses", "choices": [" never", "under a paper table"], "gold": 0},
    {"query": "", "choices": ["music plays", "no music"], "gold": 1},
    {"query": sentences(5, 60), "choices": ["winter", "garden"], "gold": 0},
]


@pytest.fixture
def questions(tmp_path):
    text = "\n".join(json.dumps(question, ensure_ascii=False) for question in QUESTIONS)
    (tmp_path / "questions.jsonl").write_text(text + "\n\n", encoding="utf-8")
    return Task(name="quiz", kind="multiple_choice", file="questions.jsonl")


def test_multiple_choice_equals_plain_scoring_a_byte(corpus, questions, tmp_path):
    model, items = decoder(SHARING, SHAPE), task_items(questions, corpus, tmp_path)
    rows = scored(model, corpus, items, 300).to_pylist()

    for number, (question, row) in enumerate(zip(QUESTIONS, rows, strict=True), 1):
        history, nll = [corpus.end_of_text, *encode(corpus, question["query"])], []
        for choice in question["choices"]:
            blank = "" if choice[0] == " " or not question["query"] else " "
            answer = encode(corpus, blank + choice)
            text = (history + answer)[-SHAPE.context - 1 :]
            said = [chances(model, text[:at])[text[at]].item() for at in range(len(text) - len(answer), len(text))]
            nll.append(-sum(said))
        a_byte = [value / len(choice.encode()) for value, choice in zip(nll, question["choices"], strict=True)]
        assert row["nll_nats"] == pytest.approx(nll[question["gold"]], rel=1e-5)
        assert row["correct"] == float(a_byte[question["gold"]] == min(a_byte))
        assert row["bytes"] == len(question["choices"][question["gold"]].encode())
        assert (row["domain"], row["document"], row["item"]) == ("quiz", f"quiz:{number}", 0)


@pytest.mark.parametrize("right", [True, False])
def test_a_model_taught_the_answers_is_right_and_one_taught_others_is_wrong(corpus, questions, tmp_path, right):
    items = task_items(questions, corpus, tmp_path)
    rows = [asked(corpus, item, item.gold if right else item.gold - 1) for item in items]
    assert scored(taught(rows), corpus, items, 300)["correct"].to_pylist() == [float(right)] * len(items)


def test_an_answer_longer_than_the_context_is_scored_whole(corpus):
    model = decoder(SHARING, SHAPE)
    item = Item("d", "x", 0, "stone", (f" {sentences(3, 120)}",), (9,))
    (row,) = scored(model, corpus, [item], 64).to_pylist()
    history, answer = asked(corpus, item, 0)
    assert len(answer) > 3 * SHAPE.context
    assert len(answer) % SHAPE.context
    nll, text = 0.0, [*history, *answer]
    for first in range(len(history), len(text), SHAPE.context):
        end = min(first + SHAPE.context, len(text))
        start = max(0, end - SHAPE.context - 1)
        nll -= sum(chances(model, text[start:at])[text[at]].item() for at in range(first, end))
    assert row["nll_nats"] == pytest.approx(nll, rel=1e-5)
    assert row["tokens"] == len(answer)


OPEN = [
    {"query": "The stone is in the ", "answer": " river"},
    {"query": "Seven green\n", "answer": ["houses", "never under\u3042"]},
    {"query": "", "answer": "music"},
    {"query": sentences(5, 60), "answer": ["winter"]},
]


@pytest.fixture
def generation(tmp_path):
    jsonl(tmp_path / "open.jsonl", OPEN)
    return Task(name="open", kind="generation", file="open.jsonl", max_new_tokens=16, stop=["\n"])


def said_by(corpus, items, answers, end):
    """(history, answer) rows that teach a model to say these answers and then to end them so."""
    rows = []
    for item, answer in zip(items, answers, strict=True):
        history = [corpus.end_of_text, *encode(corpus, item.context)][-(SHAPE.context - item.max_new_tokens) :]
        rows.append((history, [*encode(corpus, answer), *end]))
    return rows


@pytest.mark.parametrize("ending", ["end of text", "stop"])
def test_a_generated_answer_is_right_when_it_is_an_accepted_one_but_for_blanks(corpus, generation, tmp_path, ending):
    items = task_items(generation, corpus, tmp_path)
    assert [item.context for item in items[:3]] == ["The stone is in the", "Seven green\n", ""]
    end = [corpus.end_of_text] if ending == "end of text" else encode(corpus, "\n")
    answers = [" river ", "never under\u3042", "Music", "winters"]
    model = taught(said_by(corpus, items, answers, end))
    rows = scored(model, corpus, items, 300).to_pylist()
    assert [row["correct"] for row in rows] == [1.0, 1.0, 0.0, 0.0]
    assert [(row["domain"], row["document"]) for row in rows] == [("open", f"open:{number}") for number in (1, 2, 3, 4)]
    assert [row["nll_nats"] for row in rows] == [None] * 4
    assert [row["bytes"] for row in rows] == [len(answer.encode()) for answer in answers]
    assert [row["tokens"] for row in rows] == [len(encode(corpus, answer)) for answer in answers]
    assert rows == [row for n in range(2) for row in scored(model, corpus, items[2 * n : 2 * n + 2], 1).to_pylist()]


def test_items_of_several_rules_keep_their_order(corpus, generation, questions, tmp_path):
    lists = [task_items(task, corpus, tmp_path) for task in (generation, questions, BITS)]
    mixed = [item for group in zip(*lists, strict=False) for item in group]
    model = decoder(SHARING, SHAPE)
    rows = scored(model, corpus, mixed, 300).to_pylist()
    assert [(row["document"], row["item"]) for row in rows] == [(item.document, item.item) for item in mixed]
    assert rows[1::3] == scored(model, corpus, mixed[1::3], 300).to_pylist()


def test_every_kind_has_a_builder_of_its_items():
    assert sorted([*DOCUMENTS, *FILES]) == sorted(TASK_KINDS)


def test_nothing_to_score_is_said(tmp_path):
    rows = [{"text": f"{number}\u3042" * 30} for number in range(12)]  # no blanks, so no last words
    source = {"uri": str(jsonl(tmp_path / "text.jsonl", rows)), "domain": "ja"}
    store = open_store(str(tmp_path / "store"))
    data = Data.model_validate({"vocabulary": 258, "source": [source], "validation_fraction": 0.4})
    corpus = open_corpus(store, prepare(data, 8, tmp_path, store, "s"))
    with pytest.raises(InputError, match=r"task 'last' \(cloze\) finds nothing to score"):
        task_items(Task(name="last", kind="cloze"), corpus, tmp_path)


def hellaswag(path):
    """The shared text has six lines a question: what comes before, the right ending's index, four endings."""
    with bz2.open(path, "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in islice(file, 6 * 8)]
    for at in range(0, len(lines), 6):
        yield {"query": lines[at], "gold": int(lines[at + 1]), "choices": lines[at + 2 : at + 6]}


def piqa(folder):
    """The shared files have the two solutions on one line and the right one's index in another file."""
    labels = (folder / "valid-labels.lst").read_text().split()
    lines = (folder / "valid.jsonl").read_text().splitlines()
    for line, label in zip(lines[:8], labels, strict=False):
        row = json.loads(line)
        yield {"query": row["goal"], "choices": [row["sol1"], row["sol2"]], "gold": int(label)}


@pytest.mark.parametrize(
    ("name", "file", "rows"),
    [
        ("hellaswag", "hellaswag/hellaswag_val_full.txt.bz2", hellaswag),
        ("piqa", "piqa", piqa),
        ("piqa", "llm-foundry-eval/commonsense_reasoning/piqa.jsonl", None),
        ("copa", "llm-foundry-eval/commonsense_reasoning/copa.jsonl", None),
    ],
)
def test_shared_questions_are_scored(name, file, rows, corpus, tmp_path):
    if not (SHARED / file).exists():
        pytest.skip(f"{file} is not beside this checkout")
    path = SHARED / file if rows is None else jsonl(tmp_path / "questions.jsonl", rows(SHARED / file))
    task = Task(name=name, kind="multiple_choice", file=str(path), max_items=8)
    scores = scored(decoder(SHARING, SHAPE), corpus, task_items(task, corpus, tmp_path), 1000)
    assert len(scores) == 8
    for row in scores.to_pylist():
        assert row["tokens"] > 0
        assert row["bytes"] > 0
        assert math.isfinite(row["nll_nats"])
        assert row["correct"] in (0.0, 1.0)
