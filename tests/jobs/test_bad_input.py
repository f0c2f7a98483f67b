"""Bad input that only the driver can see: exit 2 and one sentence, before any Ray is started and anything recorded."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jobs.session
import jobs.study
from sharelm.store import open_store
from sharelm.store.studies import latest_study, record_study
from sharelm.study import load_study
from tests.conftest import user_environment
from tests.jobs.studies import manifests, write_study
from tests.sharelm.small import TREE
from tests.sharelm.store_helpers import rows_of


class RayStartedError(Exception):
    pass


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call it with a study's path and a store: the sentence it is refused with, without any Ray."""

    def no_ray(*_) -> None:
        raise RayStartedError

    monkeypatch.setattr(jobs.session, "ray_session", no_ray)

    def call(path: Path, store: Path | str, code: int = 2) -> str:
        assert jobs.study.main(["--study", str(path), "--store", str(store)]) == code
        out, err = capsys.readouterr()
        *stages, sentence = err.splitlines()
        assert (out, [stage for stage in stages if stage != "preparing data"]) == ("", [])
        assert sentence.startswith("error: ")
        return sentence.removeprefix("error: ")

    return call


def test_a_good_study_gets_as_far_as_ray(refused: Any, tmp_path: Path) -> None:
    with pytest.raises(RayStartedError):
        refused(write_study(tmp_path), tmp_path / "store")
    assert [path.split("/")[0] for path in manifests(tmp_path / "store")] == ["data"]


CORPORA = {
    "empty": (b"\n \n", "text.txt is empty"),
    "binary": (b"PK\x03\x04\0\0 text", "looks binary: there is a NUL byte at byte 4"),
    "latin-1": ("Größe\n".encode("latin-1") * 50, "text.txt is not UTF-8"),
    "one document": (b"just one line", "no document is left for"),
}


@pytest.mark.parametrize("corpus", CORPORA)
def test_corpora_that_cannot_be_trained_on(refused: Any, tmp_path: Path, corpus: str) -> None:
    content, words = CORPORA[corpus]
    path, store = write_study(tmp_path), tmp_path / "store"
    (tmp_path / "text.txt").write_bytes(content)
    assert words in refused(path, store)
    assert manifests(store) == {}
    assert latest_study(open_store(str(store)), "small") is None  # a better corpus may still take the name


def test_a_text_shorter_than_one_context(refused: Any, tmp_path: Path) -> None:
    tokens = {"tokens": 3 * 8192, "tokens_per_step": 8192}
    path, store = write_study(tmp_path, model={"context": 8192}, training=tokens), tmp_path / "store"
    lines = (tmp_path / "text.txt").read_text().splitlines()
    (tmp_path / "text.txt").write_text("\n".join(lines[:60]))
    assert "shorter than one context (model.context = 8192)" in refused(path, store)
    assert manifests(store) == {}


def test_a_corpus_that_is_not_there(refused: Any, tmp_path: Path) -> None:
    path = write_study(tmp_path)
    (tmp_path / "text.txt").unlink()
    assert "no file matches 'text.txt'" in refused(path, tmp_path / "store")


def test_task_files_that_hold_no_questions(refused: Any, tmp_path: Path) -> None:
    for file, words in (("questions.jsonl", "line 1: gold = 2"), ("nothing.jsonl", "cannot be read")):
        questions = {"name": "q", "kind": "multiple_choice", "file": file}
        path = write_study(tmp_path, evaluation={"task": [*TREE["evaluation"]["task"], questions]})
        (tmp_path / "questions.jsonl").write_text('{"query": "x", "choices": ["a", "b"], "gold": 2}')
        sentence = refused(path, tmp_path / "store")
        assert file in sentence
        assert words in sentence


def test_a_task_that_finds_nothing_to_score(refused: Any, tmp_path: Path) -> None:
    path = write_study(tmp_path, evaluation={"task": [*TREE["evaluation"]["task"], {"name": "last", "kind": "cloze"}]})
    lines = [f"{i} {i * 7} {i * 3} - - -" for i in range(400)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    assert "task 'last' (cloze) finds nothing to score" in refused(path, tmp_path / "store")


def test_a_store_that_cannot_be_written(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    assert "taken/store cannot be written" in refused(write_study(tmp_path), tmp_path / "taken" / "store")


@pytest.mark.s3
def test_buckets_and_secrets_that_are_wrong(
    refused: Any, tmp_path: Path, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(tmp_path)
    assert "there is no bucket 'nobodys-bucket'" in refused(path, "s3://nobodys-bucket/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    sentence = refused(path, s3_uri)
    assert "refuses these credentials" in sentence
    assert "not-the-secret" not in sentence


def test_a_study_that_changed_under_its_name(refused: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    record_study(open_store(str(store)), load_study(write_study(tmp_path)), "small.toml")
    changed = write_study(tmp_path, "changed.toml", training={"learning_rate": 2e-2})
    sentence = refused(changed, store)
    assert "training.learning_rate = 0.01, now 0.02" in sentence
    assert "changed.toml" in sentence
    assert manifests(store) == {}


def planted(tmp_path: Path) -> tuple[Path, Path]:
    store = tmp_path / "store"
    open_store(str(store)).commit_rows("trials", "small", "1" * 20, rows_of("trials", 1))
    return write_study(tmp_path), store


def test_a_table_of_a_newer_schema(refused: Any, tmp_path: Path) -> None:
    path, store = planted(tmp_path)
    (manifest,) = store.glob("trials/*/*/manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": 99}))
    assert "table trials of study 'small'" in (sentence := refused(path, store))
    assert "schema version 99" in sentence


@pytest.mark.parametrize(
    ("damage", "words"),
    [(lambda rows: rows[:-1], "bytes but"), (lambda rows: rows[:-1] + b"?", "was altered")],
    ids=["truncated", "altered"],
)
def test_a_damaged_table_is_named(refused: Any, tmp_path: Path, damage: Callable[[bytes], bytes], words: str) -> None:
    path, store = planted(tmp_path)
    (rows,) = store.glob("trials/*/*/*.parquet")
    rows.write_bytes(damage(rows.read_bytes()))
    sentence = refused(path, store, code=1)
    assert words in sentence
    assert str(rows) in sentence
    assert "nothing was read" in sentence


@pytest.mark.parametrize("address", ["127.0.0.1:9", "http://127.0.0.1:9", "no.such.host:6379"])
def test_a_ray_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    path = write_study(tmp_path)
    assert jobs.study.main(["--study", str(path), "--store", str(tmp_path / "store")]) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert f"RAY_ADDRESS = {address!r}: no Ray answers there" in sentence
    assert latest_study(open_store(str(tmp_path / "store")), "small") is None


def test_a_ray_that_wants_a_token_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        path, home = write_study(tmp_path), tmp_path / "home"
        home.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "jobs.study", "--study", str(path), "--store", str(tmp_path / "store")],
            env=user_environment(HOME=str(home), RAY_ADDRESS=address, RAY_AUTH_MODE="token"),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 2, done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert f"RAY_ADDRESS = {address!r}: the Ray there does not let this driver join (Token authentication" in sentence
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in sentence
    assert "Traceback" not in done.stderr
