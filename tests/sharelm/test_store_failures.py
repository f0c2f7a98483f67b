"""What goes wrong: writers that raise, race or are killed; stores that refuse. A reader sees all or nothing."""

import os
import random
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sharelm.errors import StoreError
from sharelm.store import open_store
from tests.sharelm.store_helpers import rows_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(store_uri):
    return open_store(store_uri)


def assert_nothing_is_seen(store, table="scores"):
    assert store.find(table, "s", "a") is None
    assert store.manifests(table) == []
    assert store.files("scores") == []
    assert len(store.read("scores")) == 0


class Broken(Exception):
    pass


def raise_broken(*_, **__):
    raise Broken


def test_raise_after_the_data_is_put(store, monkeypatch):
    monkeypatch.setattr(store.objects, "put_new", raise_broken)
    with pytest.raises(Broken):
        store.commit_rows("scores", "s", "a", rows_of("scores", 5))
    assert len(store.objects.list("scores")) == 1  # the data is there, and nobody sees it
    assert_nothing_is_seen(store)
    monkeypatch.undo()
    store.commit_rows("scores", "s", "a", rows_of("scores", 5))
    assert len(store.read("scores")) == 5


def test_raise_between_two_files(store, tmp_path):
    with pytest.raises(FileNotFoundError):
        store.commit("scores", "s", "a", {"one": b"1", "two": tmp_path / "never written"})
    assert_nothing_is_seen(store)


def test_raise_while_rows_are_serialised(store, monkeypatch):
    import pyarrow.parquet

    def write_half(table, sink, **_):
        sink.write(b"PAR1 half a file")
        raise Broken

    monkeypatch.setattr(pyarrow.parquet, "write_table", write_half)
    with pytest.raises(Broken):
        store.commit_rows("scores", "s", "a", rows_of("scores", 5))
    assert store.objects.list("scores") == []
    assert_nothing_is_seen(store)


def test_raise_while_a_file_is_written_locally(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    monkeypatch.setattr(os, "fsync", raise_broken)
    with pytest.raises(Broken):
        store.commit("tokens", "s", "a", {"x": b"1"})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_facts_that_are_not_json_commit_nothing(store):
    with pytest.raises((TypeError, ValueError)):
        store.commit("tokens", "s", "a", {"x": b"1"}, facts={"loss": float("nan")})
    assert store.find("tokens", "s", "a") is None


def test_threads_that_commit_one_step_leave_one_result(store):
    def commit(number):
        return store.commit("tokens", "s", "a", {"x": b"%d" % number, "y": b"%d" % number})

    with ThreadPoolExecutor(8) as pool:
        manifests = list(pool.map(commit, range(8)))
    assert len({manifest.attempt for manifest in manifests}) == 1
    assert store.read_bytes(manifests[0], "x") == store.read_bytes(manifests[0], "y")
    assert len(store.objects.list("tokens")) == 3


def writer(action, uri, who):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sharelm.store_writer", action, uri, who],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_processes_that_commit_one_step_leave_one_result(store):
    racers = [writer("race", store.uri, str(number)) for number in range(4)]
    try:
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 4
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        winners = {racer.stdout.readline() for racer in racers}
        assert [racer.wait(60) for racer in racers] == [0] * 4
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    manifest = store.find("tokens", "race", "a1")
    assert winners == {f"{manifest.attempt}\n"}
    assert store.read_bytes(manifest, "x") == store.read_bytes(manifest, "y")
    assert len(store.objects.list("tokens")) == 3


def test_a_killed_writer_leaves_whole_steps_only(store):
    """Read while it writes and after it was killed with SIGKILL at a random moment, several times."""

    def assert_whole(study):
        steps = store.manifests("tokens", study)
        for step in steps[-3:]:
            expected = f"{int(step.step)}\n".encode() * 20_000
            assert store.read_bytes(step, "x") == expected
            assert store.read_bytes(step, "y") == expected
        rows = store.read("scores", study)
        assert len(rows) == 50 * len(set(rows.column("step").to_pylist()))
        return len(steps)

    committed = 0
    for number in range(4):
        victim = writer("forever", store.uri, f"k{number}")
        try:
            assert victim.stdout.readline() == "ready\n"
            store.manifests("tokens", f"k{number}")
            time.sleep(random.uniform(0.0, 0.4))
            assert_whole(f"k{number}")
            assert victim.poll() is None
        finally:
            victim.kill()
            victim.wait()
        committed += assert_whole(f"k{number}")
    assert committed > 0
    store.commit("tokens", "k0", "after", {"x": b"1"})
    assert store.find("tokens", "k0", "after") is not None


def test_a_good_store_passes_its_checks(store):
    store.check_writable()
    assert store.probe_conditional_put() is True
    assert store.objects.list(".check") == []


def test_a_store_that_ignores_the_condition_is_found_out(store, monkeypatch):
    monkeypatch.setattr(store.objects, "put_new", lambda key, data: store.objects.put(key, data) or True)
    assert store.probe_conditional_put() is False


def assert_refused(uri, *words, within=11.0):
    """Every operation gives one sentence that names the store and the cause, and no secret."""
    store = open_store(uri)
    for operation in (
        store.check_writable,
        lambda: store.find("tokens", "s", "a"),
        lambda: store.manifests("tokens"),
        lambda: store.commit("tokens", "s", "a", {"x": b"1"}),
    ):
        started = time.monotonic()
        with pytest.raises(StoreError) as raised:
            operation()
        assert time.monotonic() - started < within
        message = str(raised.value)
        for word in (f"store {uri} cannot be ", *words):
            assert word in message
        assert "\n" not in message
        assert "wrong-secret" not in message


def test_a_folder_below_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert_refused(f"{file}/store", "Not a directory")


def test_a_folder_that_may_not_be_written():
    place = Path("/proc/sharelm")  # even root cannot make it
    with pytest.raises(StoreError, match=f"store {place} cannot be written"):
        open_store(str(place)).check_writable()


@pytest.mark.s3
def test_a_wrong_secret(s3_uri, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    assert_refused(s3_uri, "refuses these credentials (SignatureDoesNotMatch)")


@pytest.mark.s3
def test_a_missing_bucket(s3_uri):
    assert_refused("s3://no-such-bucket-here/x", "there is no bucket 'no-such-bucket-here'")


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_no_credentials(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="there are no credentials; set AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket").check_writable()


def test_an_endpoint_that_refuses_connections(credentials, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed_at_once:
        url = f"http://127.0.0.1:{closed_at_once.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    assert_refused("s3://bucket/x", f"{url} does not answer")


def test_an_endpoint_that_never_answers(credentials, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        started = time.monotonic()
        with pytest.raises(StoreError, match=f"{url} does not answer"):
            open_store("s3://bucket/x").check_writable()
        assert time.monotonic() - started < 15
