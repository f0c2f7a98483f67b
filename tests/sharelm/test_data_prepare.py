"""From text to tokens and back: tokenizer, shards, rows, and the committed step."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from sharelm.data import TokenRows, data_spec, open_corpus, prepare, workers
from sharelm.data.shards import write_shards
from sharelm.data.tokenizer import END_OF_TEXT, PIECE, Encoder, encoded, end_of_text, tokenizer_from, train_tokenizer
from sharelm.errors import InputError, ShareLMError
from sharelm.store import open_store
from sharelm.study.data import Data

CONTEXT = 16
SHARED = Path(__file__).parents[3] / "shared" / "data"


def story(seed: int) -> str:
    rng = random.Random(seed)
    words = ["Käse", "river", "walks", "into", "the", "night", "三つ", "under", "stone", "\n", "green", "<|endoftext|>"]
    return " ".join(f"{rng.choice(words)}{rng.randrange(30)}" for _ in range(40))


STORIES = [story(seed) for seed in range(80)]


@pytest.fixture
def base(tmp_path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write(folder, STORIES)
    return folder


def write(folder: Path, texts: list[str], name: str = "notes.jsonl") -> None:
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def data(**settings: object) -> Data:
    source = [{"uri": "notes.jsonl", "domain": "notes"}]
    return Data.model_validate({"source": source, "vocabulary": 300, "validation_fraction": 0.2, **settings})


def prepared(base: Path, settings: Data, context: int = CONTEXT):
    store = open_store(str(base.parent / "store"))
    return open_corpus(store, prepare(settings, context, base, store, "study"))


def refusal(base: Path, settings: Data, context: int = CONTEXT) -> str:
    with pytest.raises(InputError) as error:
        prepared(base, settings, context)
    assert "\n" not in str(error.value)
    assert open_store(str(base.parent / "store")).manifests("data") == []
    return str(error.value)


def test_decoded_rows_are_the_documents(base):
    corpus = prepared(base, data())
    rows = corpus.training(1)  # context 1: every token but the first is the target of one row
    stream = [int(rows[0][0]), *(int(row[1]) for row in rows)]
    assert stream[-1] == corpus.end_of_text
    text = corpus.tokenizer.decode(stream, skip_special_tokens=False)
    pieces, start = [], 0
    for position, token in enumerate(stream):  # by token: documents spell the end of text out as well
        if token == corpus.end_of_text:
            pieces.append(corpus.tokenizer.decode(stream[start:position], skip_special_tokens=False))
            start = position + 1
    held_out = corpus.validation().column("text").to_pylist()
    assert text == "".join(piece + END_OF_TEXT for piece in pieces)
    assert sorted(pieces + held_out) == sorted(STORIES)
    assert 0 < len(held_out) < len(pieces)


def test_facts_and_held_out_documents_agree_with_the_text(base):
    corpus = prepared(base, data())
    facts, table = corpus.manifest.facts, corpus.validation()
    counts = facts["domains"]["notes"]
    assert sum(counts[split]["documents"] for split in counts) == len(STORIES)
    assert sum(counts[split]["bytes"] for split in counts) == sum(len(text.encode()) for text in STORIES)
    assert facts["training_tokens"] == counts["training"]["tokens"] + counts["training"]["documents"]
    assert facts["validation_tokens"] == sum(map(len, table.column("tokens").to_pylist()))
    for row in table.to_pylist():
        assert row["bytes"] == len(row["text"].encode())
        assert corpus.tokenizer.decode(row["tokens"], skip_special_tokens=False) == row["text"]
        assert corpus.end_of_text not in row["tokens"]
        assert row["domain"] == "notes"
    assert corpus.tokenizer.get_vocab_size() == 300


def test_domains_are_mixed(base):
    write(base, [f"other {story(seed)}" for seed in range(1000, 1080)], "other.jsonl")
    both = [{"uri": "notes.jsonl", "domain": "notes"}, {"uri": "other.jsonl", "domain": "other"}]
    corpus = prepared(base, data(source=both))
    rows = corpus.training(1)
    stream = [int(rows[0][0]), *(int(row[1]) for row in rows)]
    documents = corpus.tokenizer.decode(stream, skip_special_tokens=False)
    first, second = documents[: len(documents) // 2].count("other"), documents[len(documents) // 2 :].count("other")
    assert 0.5 < first / second < 2


def test_a_rerun_finds_the_step_and_reads_no_text(base, monkeypatch):
    first = prepared(base, data()).manifest
    monkeypatch.setattr("sharelm.data.build.read_documents", None)
    assert prepared(base, data()).manifest == first


def test_the_spec_knows_content_and_settings_but_no_place(base, tmp_path):
    spec = data_spec(data(), CONTEXT, base)
    assert str(tmp_path) not in json.dumps(spec)
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    assert data_spec(data(), CONTEXT, moved) == spec
    assert data_spec(data(vocabulary=301), CONTEXT, base) != spec
    write(moved, [*STORIES, "one more"])
    assert data_spec(data(), CONTEXT, moved) != spec


def test_two_processes_make_the_same_bytes(base, tmp_path):
    script = (
        "import sys; from pathlib import Path; from sharelm.data import prepare; from sharelm.store import open_store\n"
        "from sharelm.study.data import Data\n"
        f"data = Data.model_validate({data().model_dump()!r})\n"
        "made = prepare(data, 16, Path(sys.argv[1]), open_store(sys.argv[2]), 's')\n"
        "print(made.step, [(file.name, file.sha256) for file in made.files])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script, str(base), str(tmp_path / f"store{hashing}")],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hashing, "PATH": "/usr/bin", "TOKENIZERS_PARALLELISM": parallel},
        ).stdout
        for hashing, parallel in (("1", "true"), ("2", "false"))
    }
    assert len(outputs) == 1
    assert "tokenizer.json" in outputs.pop()


def files_of(base: Path, store: str, settings: Data) -> list[tuple[str, str]]:
    manifest = prepare(settings, CONTEXT, base, open_store(str(base.parent / store)), "study")
    return [(file.name, file.sha256) for file in manifest.files]


def test_one_process_and_several_make_the_same_bytes(base, monkeypatch):
    write(base, [*STORIES, *(story(seed) for seed in range(2, 60)), STORIES[0] + " more"])
    one = files_of(base, "one", data())
    started = []
    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setattr(workers, "_LEAST_CHARACTERS", 1000)
    monkeypatch.setattr(workers, "_BATCH_CHARACTERS", 700)
    monkeypatch.setattr(
        workers, "ProcessPoolExecutor", lambda *a, **k: started.append(ProcessPoolExecutor(*a, **k)) or started[-1]
    )
    assert files_of(base, "two", data()) == one
    assert len(started) == 1


def killed(texts: list[str]) -> list[int]:
    os.kill(os.getpid(), signal.SIGKILL)
    return [len(text) for text in texts]


def bad(texts: list[str]) -> list[int]:
    raise InputError(f"{texts[0]} is bad")


def test_a_killed_process_and_a_bad_text_are_one_sentence(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 2)
    with pytest.raises(ShareLMError, match="one of 2 processes was killed, most likely for want of memory"):  # noqa: SIM117
        with workers.workers(1 << 30) as pool:
            list(workers.spread(killed, STORIES, pool))
    with pytest.raises(InputError, match="a is bad"), workers.workers(1 << 30) as pool:
        list(workers.spread(bad, ["a", "b"], pool))


def test_cores_are_those_of_the_container(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for text, expected in (("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 8)):
        (tmp_path / "cpu.max").write_text(text)
        monkeypatch.setattr(workers, "_QUOTA", tmp_path / "cpu.max")
        assert workers.cores() == expected
    monkeypatch.setattr(workers, "_QUOTA", tmp_path / "none")
    assert workers.cores() == 8


ORPHANS = """
import os, signal, sys, time
from sharelm.data import tokenizer as tokenizer_module
from sharelm.data import workers
def wait(texts):
    print(os.getpid(), flush=True)
    time.sleep(600)
if __name__ == "__main__":
    workers.cores = lambda: 2
    with workers.workers(1 << 30) as pool:
        list(workers.spread(wait, ["x" * 2_000_000, "y" * 2_000_000], pool))
"""


def test_processes_end_with_their_parent(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    with subprocess.Popen([sys.executable, tmp_path / "orphans.py"], stdout=subprocess.PIPE, text=True) as parent:
        children = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
        parent.kill()
    assert psutil.wait_procs(children, timeout=60)[1] == []


def test_a_given_tokenizer_is_used(base):
    tokenizer = train_tokenizer(STORIES, 280)
    tokenizer.enable_truncation(5)
    tokenizer.save(str(base / "own.json"))
    corpus = prepared(base, data(tokenizer="own.json", vocabulary=280))
    assert corpus.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert corpus.validation().column("bytes").to_pylist() == [
        len(text.encode()) for text in corpus.validation().column("text").to_pylist()
    ]
    assert max(map(len, corpus.validation().column("tokens").to_pylist())) > 5


def test_bad_tokenizers(base):
    train_tokenizer(STORIES, 280).save(str(base / "own.json"))
    assert "own.json has 280 entries but data.vocabulary = 300" in refusal(base, data(tokenizer="own.json"))
    assert "none.json cannot be read: No such file" in refusal(base, data(tokenizer="none.json"))
    (base / "bad.json").write_text("{}")
    assert "bad.json is not a tokenizer.json" in refusal(base, data(tokenizer="bad.json"))
    (base / "bad.json").write_bytes(b"\xff")
    assert "bad.json cannot be read" in refusal(base, data(tokenizer="bad.json"))
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(300)}, unk_token="w0"))
    words.save(str(base / "words.json"))
    assert "words.json has no token '<|endoftext|>'" in refusal(base, data(tokenizer="words.json"))
    words = Tokenizer(models.WordLevel({END_OF_TEXT: 0, **{f"w{i}": i for i in range(1, 300)}}, unk_token="w1"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(base / "words.json"))
    assert "does not give back the text of validation document" in refusal(base, data(tokenizer="words.json"))


def test_a_vocabulary_the_text_cannot_fill(base):
    assert "data.vocabulary = 60000 cannot be reached: the training text gives" in refusal(
        base, data(vocabulary=60_000)
    )


def test_text_shorter_than_one_context(base):
    message = refusal(base, data(), context=10**6)
    assert "shorter than one context (model.context = 1000000)" in message


def test_one_document_cannot_be_split(base):
    write(base, STORIES[:1])
    assert "document_start says where one begins" in refusal(base, data(validation_fraction=0.5))


def test_fixed_splits_are_kept(base):
    write(base, STORIES[:60], "train.jsonl")
    write(base, STORIES[50:], "valid.jsonl")
    sources = [
        {"uri": "train.jsonl", "domain": "notes", "split": "training"},
        {"uri": "valid.jsonl", "domain": "notes", "split": "validation"},
    ]
    corpus = prepared(base, data(source=sources))
    assert sorted(corpus.validation().column("text").to_pylist()) == sorted(STORIES[50:])
    assert corpus.manifest.facts["domains"]["notes"]["training"]["documents"] == 50
    assert corpus.manifest.facts["exact_duplicates_dropped"] == 10


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=10))
def test_trained_tokenizers_give_back_any_text(texts):
    tokenizer = tokenizer_from(train_tokenizer(texts, 257).to_str())
    for text in [*texts, END_OF_TEXT, f"a{END_OF_TEXT}b"]:
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokens, skip_special_tokens=False) == text
        assert end_of_text(tokenizer) not in tokens


BLANKS = "".join(map(chr, [*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, 0x180E, 0x2003, 0x200B, 0x2028, 0x3000]))
LETTERS = st.one_of(
    st.sampled_from("abBZ'str3.@[`{~é三<|>" + BLANKS), st.sampled_from(" \n"), st.characters(codec="utf-8")
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(LETTERS, max_size=30), min_size=1, max_size=5))
def test_piece_by_piece_is_what_the_tokenizer_gives_for_whole_texts(texts):
    saved = tokenizer_from(train_tokenizer([*STORIES, *texts, " \n\n\t  'tis", *BLANKS], 330).to_str()).to_str()
    whole = tokenizer_from(saved).encode_batch(texts, add_special_tokens=False)
    assert Encoder(saved).by_piece
    assert [tokens.tolist() for tokens in encoded(saved, 330, texts)] == [found.ids for found in whole]


@settings(max_examples=500, deadline=None)
@given(st.text(LETTERS, max_size=20))
def test_a_piece_ends_where_a_pre_token_ends(text):
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = PIECE.findall(text)
    assert "".join(pieces) == text
    whole = [token for token, _ in pre.pre_tokenize_str(text)]
    assert [token for piece in pieces for token, _ in pre.pre_tokenize_str(piece)] == whole


def test_a_tokenizer_that_joins_over_blanks_is_given_whole_texts():
    text = "one two  one two"
    joined = train_tokenizer(STORIES, 280)
    joined.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    added = train_tokenizer(STORIES, 280)
    added.add_tokens(["one two"])
    stripped = train_tokenizer(STORIES, 280)
    stripped.normalizer = normalizers.Strip()
    for tokenizer in (joined, added, stripped):
        saved = tokenizer_from(tokenizer.to_str()).to_str()
        assert not Encoder(saved).by_piece
        (tokens,) = encoded(saved, 300, [text])
        assert tokens.tolist() == tokenizer_from(saved).encode(text, add_special_tokens=False).ids


def test_pieces_are_forgotten_before_they_are_too_many(monkeypatch):
    saved = tokenizer_from(train_tokenizer(STORIES, 300).to_str()).to_str()
    encoder = Encoder(saved)
    expected = [encoder.encode(text).tolist() for text in STORIES]
    monkeypatch.setattr("sharelm.data.tokenizer._MOST_PIECES", 40)
    small = Encoder(saved)
    assert [small.encode(text).tolist() for text in STORIES] == expected
    assert len(small.known) < len(encoder.known) / 3


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 69_999), max_size=9), min_size=1, max_size=12),
    st.integers(1, 12),
    st.integers(1, 7),
    st.sampled_from([70_000, 65_536]),
    st.data(),
)
def test_rows_over_shards_are_rows_of_one_array(tmp_path_factory, documents, shard_tokens, context, vocabulary, draw):
    documents = [[token % vocabulary for token in document] for document in documents]
    folder = tmp_path_factory.mktemp("shards")
    paths = write_shards(documents, 0, vocabulary, folder, shard_tokens)
    plain = np.array([token for document in documents for token in [*document, 0]])
    shards = [np.load(path) for path in paths]
    assert {shard.dtype for shard in shards} == {np.dtype("uint32" if vocabulary > 65_536 else "uint16")}
    assert all(len(shard) == shard_tokens for shard in shards[:-1])
    rows = TokenRows.open(paths, context)
    assert len(rows) == (len(plain) - 1) // context
    expected = [plain[i * context : i * context + context + 1] for i in range(len(rows))]
    assert [row.tolist() for row in rows] == [row.tolist() for row in expected]
    if len(rows):
        wanted = draw.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8))
        batch = rows.batch(np.array(wanted))
        assert batch.dtype == np.int64
        assert batch.tolist() == [expected[i].tolist() for i in wanted]
    with pytest.raises(IndexError):
        rows.batch(np.array([len(rows)]))
    with pytest.raises(IndexError):
        rows[len(rows)]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the repository")
def test_wikitext_with_its_own_splits(tmp_path):
    sources = [
        {
            "uri": f"wikitext-2/{name}.txt.xz",
            "domain": "wikipedia",
            "document_start": "^ = [^=]+ = $",
            "split": split,
        }
        for name, split in (("test", "training"), ("valid", "validation"))  # the large train file takes longer
    ]
    store = open_store(str(tmp_path))
    settings = Data.model_validate({"source": sources, "vocabulary": 2048})
    corpus = open_corpus(store, prepare(settings, 128, SHARED, store, "wikitext"))
    counts = corpus.manifest.facts["domains"]["wikipedia"]
    assert counts["validation"]["documents"] == 60
    assert counts["validation"]["bytes"] == 1_121_681 - 2  # the benchmark's file begins with a blank line
    assert 1_250_000 < counts["training"]["bytes"] <= 1_256_449
    assert 3 < corpus.manifest.facts["bytes_per_token"] < 4.5
