"""Reading documents: formats, compressions, the builtin corpus, and every way in which a file can be bad."""

from __future__ import annotations

import ast
import bz2
import gzip
import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sharelm.data import read_documents
from sharelm.data.documents import Document
from sharelm.data.sources import fingerprint, sample
from sharelm.errors import InputError
from sharelm.study.data import Source

COMPRESS = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "zst": zstandard.compress}
TEXTS = ["Der Käse\nist gegessen.\n", "two", "三つ目"]
SHARED = Path(__file__).parents[3] / "shared" / "data"


def source(uri: str, **settings: object) -> Source:
    return Source(uri=uri, domain="notes", **settings)


def read(uri: str, base: Path, **settings: object) -> list[str]:
    return [document.text for document in read_documents(source(uri, **settings), base)]


def jsonl(texts: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({"id": 1, field: text}, ensure_ascii=False) + "\n" for text in texts).encode()


def refusal(uri: str, base: Path, **settings: object) -> str:
    with pytest.raises(InputError) as error:
        read(uri, base, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".bz2", ".zst"])
def test_formats_and_compressions_give_back_the_text(tmp_path, suffix):
    compress = COMPRESS.get(suffix[1:], bytes)
    (tmp_path / f"rows.jsonl{suffix}").write_bytes(compress(jsonl(TEXTS, "body")))
    (tmp_path / f"one.txt{suffix}").write_bytes(compress(TEXTS[0].encode()))
    assert read(f"rows.jsonl{suffix}", tmp_path, text_field="body") == TEXTS
    assert read(f"one.txt{suffix}", tmp_path) == TEXTS[:1]


def test_a_zstd_file_of_two_frames_is_read_whole(tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(jsonl(["one"])) + zstandard.compress(jsonl(["two"])))
    assert read("a.jsonl.zst", tmp_path) == ["one", "two"]


def test_parquet_globs_and_absolute_paths(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    pq.write_table(pa.table({"body": TEXTS}), tmp_path / "deep" / "er" / "b.parquet")
    pq.write_table(pa.table({"body": ["first"]}), tmp_path / "deep" / "a.parquet")
    assert read("deep/**/*.parquet", tmp_path, text_field="body") == ["first", *TEXTS]
    assert read(f"{tmp_path}/deep/*.parquet", Path("/"), text_field="body") == ["first"]


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path):
    base = tmp_path / "a[1]*"
    base.mkdir()
    (base / "x.txt").write_text("found")
    assert read("*.txt", base) == ["found"]
    assert read("x.txt", base) == ["found"]


def test_document_start_cuts_before_each_line_that_matches(tmp_path):
    text = "preface\r\n= One =\r\nbody of one\r\n= Two =\r\n= two again =\r\nend"
    (tmp_path / "book.txt").write_bytes(text.encode())
    parts = read("book.txt", tmp_path, document_start="^= [A-Z].* =$")
    assert parts == ["preface\r\n", "= One =\r\nbody of one\r\n", "= Two =\r\n= two again =\r\nend"]
    assert "".join(parts) == text


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read("a.txt", tmp_path) == ["hello"]


def test_blank_documents_and_blank_lines_are_passed_over(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n" + jsonl(["", " \n", "text"]))
    assert read("a.jsonl", tmp_path) == ["text"]


BAD_FILES = {
    "empty": ("a.txt", b"", {}, "is empty"),
    "only blanks": ("a.jsonl", b"\n\n", {}, "is empty"),
    "binary": ("a.txt", b"ab\0c", {}, "looks binary: there is a NUL byte at byte 2"),
    "binary line": ("a.jsonl", jsonl(["x"]) + b"\0\n", {}, "line 2 looks binary"),
    "latin-1": ("a.txt", "Käse".encode("latin-1"), {}, "is not UTF-8: invalid continuation byte at byte 1"),
    "latin-1 line": ("a.jsonl", jsonl(["x"]) + "ä\n".encode("latin-1"), {}, "line 2 is not UTF-8"),
    "half a surrogate": ("a.jsonl", rb'{"text": "\ud800"}', {}, "line 1: 'text' is not UTF-8 text"),
    "not JSON": ("a.jsonl", jsonl(["x"]) + b"{'text': 1}\n", {}, "line 2 is not JSON"),
    "deep JSON": ("a.jsonl", b"[" * 100_000, {}, "line 1 is not JSON"),
    "JSON but no object": ("a.jsonl", b'["text"]', {}, "line 1 has no field 'text'; it is not an object"),
    "no such field": ("a.jsonl", jsonl(["x"], "body"), {}, "line 1 has no field 'text'; there are id, body"),
    "number for text": ("a.jsonl", b'{"text": 7}', {}, "line 1: 'text' is not text but 7"),
    "corrupt gzip": ("a.txt.gz", gzip.compress(b"x" * 999)[:20], {}, "is not a whole .gz file"),
    "corrupt xz": ("a.txt.xz", lzma.compress(b"x" * 999)[:40], {}, "is not a whole .xz file"),
    "corrupt bz2": ("a.txt.bz2", bz2.compress(b"x" * 999)[:20], {}, "is not a whole .bz2 file"),
    "corrupt zstd": ("a.txt.zst", zstandard.compress(bytes(range(1, 256)) * 9)[:99], {}, "is not a whole .zst file"),
    "plain named gz": ("a.jsonl.gz", b"hello", {}, "is not a whole .gz file"),
    "plain named zst": ("a.jsonl.zst", b"hello", {}, "is not a whole .zst file"),
    "plain named parquet": ("a.parquet", b"hello", {}, "is not a Parquet file"),
    "unknown suffix": ("a.docx", b"hello", {}, "ends in none of .txt, .jsonl and .parquet"),
    "no suffix": ("gz", b"hello", {}, "ends in none of .txt, .jsonl and .parquet"),
    "no start": ("a.txt", b"hello", {"document_start": "^= "}, "no line matches document_start = '^= '"),
    "start of a row": ("a.jsonl", jsonl(["x"]), {"document_start": "x"}, "document_start is for txt files"),
    "max_bytes": ("a.txt", b"hello", {"max_bytes": 4}, "max_bytes = 4 is less than any of its documents"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_sentence_that_names_it(tmp_path, case):
    name, data, settings, words = BAD_FILES[case]
    (tmp_path / name).write_bytes(data)
    message = refusal(name, tmp_path, **settings)
    assert name in message
    assert words in message


def test_bad_parquet_columns(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    assert "has no column 'text'; there are body, n" in refusal("a.parquet", tmp_path)
    assert "row 1: 'n' is not text but 1" in refusal("a.parquet", tmp_path, text_field="n")


def test_what_is_not_there(tmp_path):
    assert refusal("*.txt", tmp_path) == f"no file matches '*.txt' in {tmp_path}"
    assert refusal("/nowhere/a.txt", tmp_path) == "no file matches '/nowhere/a.txt'"
    (tmp_path / "corpus").mkdir()
    assert refusal("corpus/", tmp_path) == "corpus/ is a folder; name its files, for example corpus/*.txt"
    assert "'builtin:ruby' is not known; the only builtin is 'builtin:python'" in refusal("builtin:ruby", tmp_path)
    assert "domain = 'notes' is not one of its domains prose and code" in refusal("builtin:python", tmp_path)


def test_without_the_datasets_library_one_sentence_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal("hf:owner/name", tmp_path) == "an hf: source needs the datasets library: pip install 'sharelm[hf]'"


def test_a_local_folder_through_the_datasets_library(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(jsonl(TEXTS))
    (tmp_path / "set" / "test.jsonl").write_bytes(jsonl(["held out"]))
    assert read("hf:set", tmp_path) == TEXTS
    assert read("hf:set:test", tmp_path) == ["held out"]
    before = fingerprint(source("hf:set"), tmp_path)
    assert fingerprint(source("hf:set"), tmp_path) == before
    assert "has no column 'body'; there are id, text" in refusal("hf:set", tmp_path, text_field="body")
    assert "hf:set:nope cannot be read" in refusal("hf:set:nope", tmp_path)
    (tmp_path / "set" / "train.jsonl").write_bytes(jsonl(["other and longer text"]))
    assert fingerprint(source("hf:set"), tmp_path) != before


def test_moving_a_folder_changes_no_fingerprint_and_editing_a_file_does(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "a.txt").write_text("one")
    (here / "b.txt").write_text("two")
    before = fingerprint(source("*.txt"), here)
    shutil.copytree(here, there)
    (there / "a.txt").rename(there / "z.txt")
    assert fingerprint(source("*.txt"), there) == before
    (there / "b.txt").write_text("TWO")
    assert fingerprint(source("*.txt"), there) != before


@pytest.fixture(scope="module")
def builtin() -> list[Document]:
    return list(read_documents(Source(uri="builtin:python"), Path()))


def test_the_builtin_has_over_a_megabyte_of_each_domain(builtin):
    size = {domain: sum(d.bytes for d in builtin if d.domain == domain) for domain in ("prose", "code")}
    assert min(size.values()) > 1_000_000, size
    assert len({document.digest for document in builtin}) > 0.99 * len(builtin)


def test_builtin_code_parses_and_holds_no_docstring(builtin):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for document in [d for d in builtin if d.domain == "code"][::10]:
        nodes = [node for node in ast.walk(ast.parse(document.text)) if isinstance(node, kinds)]
        assert not any(ast.get_docstring(node) for node in nodes), document.text[:200]


def test_builtin_docstrings_are_prose_and_only_prose(builtin):
    known = " ".join((json.JSONDecoder.__doc__ or "").split())[:60]
    prose = [" ".join(d.text.split()) for d in builtin if d.domain == "prose"]
    code = [" ".join(d.text.split()) for d in builtin if d.domain == "code"]
    assert any(known in text for text in prose)
    assert not any(known in text for text in code)


def test_max_bytes_takes_half_of_each_builtin_domain(builtin):
    limited = list(read_documents(Source(uri="builtin:python", max_bytes=600_000), Path()))
    for domain in ("prose", "code"):
        assert 200_000 < sum(d.bytes for d in limited if d.domain == domain) <= 300_000
    assert {d.digest for d in limited} < {d.digest for d in builtin}


def test_one_domain_of_the_builtin_is_the_same_in_another_process(builtin):
    script = (
        "from pathlib import Path; from sharelm.data import read_documents; from sharelm.study.data import Source\n"
        "for d in read_documents(Source(uri='builtin:python', domain='code'), Path()): print(d.digest)"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert other == [document.digest for document in builtin if document.domain == "code"]


@settings(deadline=None)
@given(
    st.lists(st.text("abcdefg ", min_size=1, max_size=20), min_size=1, max_size=30, unique=True),
    st.integers(1, 300),
    st.randoms(use_true_random=False),
)
@example(["a", "a "], 2, Random(1))  # the same but for white space: one draw for both
def test_a_sample_fits_does_not_depend_on_order_and_only_grows(texts, limit, random):
    documents = [Document("d", text) for text in texts]
    taken = [d.text for d in sample(documents, limit)]
    assert sum(len(text.encode()) for text in taken) <= limit
    shuffled = list(documents)
    random.shuffle(shuffled)
    assert sorted(d.text for d in sample(shuffled, limit)) == sorted(taken)
    everything = sum(d.bytes for d in documents)
    assert sorted(d.text for d in sample(documents, everything)) == sorted(texts)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the repository")
def test_wikitext_splits_into_its_articles():
    articles = read("wikitext-2/valid.txt.xz", SHARED, document_start="^ = [^=]+ = $")
    assert len(articles) == 60  # of the benchmark's validation split
    assert all(article.startswith(" = ") for article in articles)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the repository")
def test_peps_are_read_whole():
    texts = read("python-peps/peps.jsonl.xz", SHARED)
    assert len(texts) == 736
    assert any(text.startswith("PEP: 8\n") for text in texts)


@pytest.mark.s3
def test_objects_are_read_and_named_by_their_etags(s3_uri, tmp_path):
    system = s3fs.S3FileSystem()
    system.pipe_file(f"{s3_uri}/a.jsonl.zst", zstandard.compress(jsonl(TEXTS)))
    system.pipe_file(f"{s3_uri}/b.txt", b"another")
    pq.write_table(pa.table({"text": ["rows"]}), tmp_path / "c.parquet")
    system.put_file(str(tmp_path / "c.parquet"), f"{s3_uri}/c.parquet")
    assert read(f"{s3_uri}/*", tmp_path) == [*TEXTS, "another", "rows"]
    before = fingerprint(source(f"{s3_uri}/b.txt"), tmp_path)
    system.pipe_file(f"{s3_uri}/b.txt", b"changed")
    assert fingerprint(source(f"{s3_uri}/b.txt"), tmp_path) != before


@pytest.mark.s3
def test_bad_buckets_and_secrets_are_one_sentence_without_the_secret(s3_uri, tmp_path, monkeypatch):
    assert refusal(f"{s3_uri}/none.txt", tmp_path) == f"no file matches '{s3_uri}/none.txt'"
    assert "there is no bucket 'no-such-bucket-here'" in refusal("s3://no-such-bucket-here/*.txt", tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "quite-wrong")
    message = refusal(f"{s3_uri}/*.txt", tmp_path)
    assert "the server refuses these credentials" in message
    assert "quite-wrong" not in message
