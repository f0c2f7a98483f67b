"""A store whose S3 server refuses, waits and cuts connections: what is said is true, and what is committed is whole."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.flaky import Flaky
from sharelm.errors import StoreError
from sharelm.store import open_store, s3
from tests.sharelm.store_helpers import rows_of

pytestmark = pytest.mark.s3

CONTENT = bytes(range(256)) * 4000


class Scripted(Flaky):
    """Requests meet the modes of `script`, one after another, and then `usual`."""

    def __init__(self, server, seconds):
        self.usual, self.script = "well", []
        super().__init__(server, seconds)

    @property
    def mode(self):
        return self.script.pop(0) if self.script else self.usual

    @mode.setter
    def mode(self, mode):
        self.usual = mode


@pytest.fixture
def straight(s3_uri):
    """The store by way of the real server alone, with a step in it."""
    store = open_store(s3_uri)
    store.commit("tokens", "s", "a", {"x": CONTENT})
    store.commit_rows("scores", "s", "a", rows_of("scores", 5))
    return store


@pytest.fixture
def flaky(straight, monkeypatch):
    with Scripted(os.environ["AWS_ENDPOINT_URL"], seconds=0.5) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


@pytest.fixture
def store(straight, flaky):
    """The same store by way of the flaky server, connected to it."""
    store = open_store(straight.uri)
    store.check_writable()
    flaky.met.clear()
    return store


def reads(store, manifest):
    return {
        "find": lambda: store.find("tokens", "s", "a") == manifest,
        "read_bytes": lambda: store.read_bytes(manifest, "x") == CONTENT,
        "fetch": lambda: store.fetch(manifest, "x").read_bytes() == CONTENT,
        "read": lambda: len(store.read("scores", "s", steps=["a"])) == 5,
    }


def lists(store, manifest):
    return {
        "steps": lambda: store.steps("tokens", "s") == {"a"},
        "manifests": lambda: store.manifests("tokens", "s") == [manifest],
    }


def writes(store):
    return {
        "commit": lambda: store.commit("weights", "s", "b", {"x": b"1"}).step == "b",
        "commit_rows": lambda: store.commit_rows("costs", "s", "b", rows_of("costs", 2)).rows == 2,
        "put_new": lambda: store.objects.put_new("new", b"1"),
        "check_writable": lambda: store.check_writable() is None,
    }


def at_once(operations):
    """What each of these gave or raised, and after how many seconds."""

    def timed(operation):
        started = time.monotonic()
        try:
            found = operation()
        except StoreError as error:
            found = error
        return found, time.monotonic() - started

    with ThreadPoolExecutor(len(operations)) as pool:
        return dict(zip(operations, pool.map(timed, operations.values()), strict=True))


def sentence(error):
    assert isinstance(error, StoreError)
    assert "\n" not in str(error)
    return str(error)


def test_a_short_refusal_is_waited_out(store, straight, flaky):
    manifest = straight.find("tokens", "s", "a")
    operations = {**reads(store, manifest), **lists(store, manifest), **writes(store)}
    flaky.mode = "refuse"
    recovery = threading.Timer(1.0, setattr, (flaky, "mode", "well"))
    recovery.start()
    found = at_once(operations)
    recovery.join()
    assert {name: gave for name, (gave, _) in found.items()} == dict.fromkeys(operations, True)
    assert flaky.met["refuse"] >= len(operations)


def test_a_server_that_refuses_for_good_is_told_within_seconds(store, straight, flaky):
    manifest = straight.find("tokens", "s", "a")
    flaky.mode = "refuse"
    for name, (error, seconds) in at_once(
        {**reads(store, manifest), **lists(store, manifest), **writes(store)}
    ).items():
        assert f"{flaky.url} answers SlowDown" in sentence(error), name
        assert seconds < 10, name
    assert straight.steps("weights", "s") == straight.steps("costs", "s") == set()


def test_slow_answers_are_waited_for(store, straight, flaky):
    manifest = straight.find("tokens", "s", "a")
    operations = {**reads(store, manifest), **lists(store, manifest), **writes(store)}
    flaky.mode = "slow"
    for name, (found, seconds) in at_once(operations).items():
        assert found is True, name
        assert seconds >= flaky.seconds, name


def cached():
    return [path for path in Path(os.environ["SHARELM_CACHE"]).iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("part", [None, 300_000], ids=["whole", "in parts"])
def test_an_object_that_is_cut_is_never_taken_as_whole(store, straight, flaky, part):
    """s3fs gets what is larger than a block in parts, side by side."""
    manifest = straight.find("tokens", "s", "a")
    if part:
        store.objects._fs.default_block_size = part
    flaky.mode = "cut"
    for name, (error, seconds) in at_once(reads(store, manifest)).items():
        assert f"{flaky.url} ends its answers before they are whole" in sentence(error), name
        assert seconds < 10, name
    assert cached() == []
    flaky.mode = "well"
    assert {name: gave for name, (gave, _) in at_once(reads(store, manifest)).items()} == dict.fromkeys(
        reads(store, manifest), True
    )
    assert [path.read_bytes() for path in cached()] == [CONTENT]


def test_an_object_that_is_cut_once_is_read_again(store, straight, flaky):
    manifest = straight.find("tokens", "s", "a")
    for name, read in reads(store, manifest).items():
        flaky.script = ["cut"]
        assert read(), name
    assert flaky.met["cut"] == len(reads(store, manifest))


@pytest.mark.parametrize("cuts", [1, 2])
def test_a_commit_whose_answer_is_cut_is_found_to_be_its_own(store, straight, flaky, cuts):
    attempt = store.attempt("scores", "s", "b")
    content = straight.read_bytes(straight.find("scores", "s", "a"), "rows.parquet")
    record = attempt.put("rows.parquet", content)
    flaky.script = ["cut"] * cuts
    done = attempt.commit([record], rows=5)
    assert flaky.met["cut"] == cuts
    assert done.attempt == attempt.id
    assert straight.find("scores", "s", "b") == done
    assert straight.read_bytes(done, "rows.parquet") == content


def test_a_commit_that_never_hears_an_answer_has_happened_once(store, straight, flaky):
    attempt = store.attempt("scores", "s", "b")
    record = attempt.put("rows.parquet", straight.read_bytes(straight.find("scores", "s", "a"), "rows.parquet"))
    flaky.mode = "cut"
    with pytest.raises(StoreError, match=f"{flaky.url} does not answer"):
        attempt.commit([record], rows=5)
    with pytest.raises(StoreError, match=f"{flaky.url} does not answer"):
        store.objects.put_new("new", b"1")
    flaky.mode = "well"
    done = straight.find("scores", "s", "b")
    assert done.attempt == attempt.id
    assert store.commit_rows("scores", "s", "b", rows_of("scores", 7)) == done
    assert attempt.commit([record], rows=5) == done
    assert store.objects.put_new("new", b"2") is False
    assert straight.objects.get("new") == b"1"
    assert straight.read("scores").column("step").to_pylist() == ["a"] * 5 + ["b"] * 5
    assert len(straight.objects.list("scores/study=s/step=b")) == 2


@pytest.fixture
def quick(monkeypatch):
    """Retries that wait for a moment only; set before a store is opened."""
    from botocore.retries.standard import ExponentialBackoff

    short = partial(ExponentialBackoff, max_backoff=0.01)
    monkeypatch.setattr("aiobotocore.retries.standard.ExponentialBackoff", short)
    monkeypatch.setattr(s3, "_pause", lambda attempts: 0.01)


STEPS = ["1", "2", "3"]
MODES = st.sampled_from(["well", "well", "refuse", "slow", "cut", "cut"])


@pytest.fixture
def two(quick, straight, flaky):
    flaky.seconds = 0.05
    return [open_store(straight.uri), open_store(straight.uri)]


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(script=st.lists(MODES, max_size=60), number=st.uuids())
def test_whatever_the_server_does_a_step_is_one_commit_and_whole(straight, flaky, two, script, number):
    """Two stores commit the same steps at once; what either reports as done is there, and nothing is there in part."""
    study = number.hex
    flaky.script = list(script)

    def commit(who):
        done = []
        for step in STEPS:
            content = f"{who} {step}\n".encode() * 5000
            try:
                done.append(two[who].commit("tokens", study, step, {"x": content, "y": content}))
                done.append(two[who].commit_rows("scores", study, step, rows_of("scores", 3 + who)))
            except StoreError as error:
                sentence(error)
        return done

    with ThreadPoolExecutor(2) as pool:
        reported = [manifest for done in pool.map(commit, range(2)) for manifest in done]
    flaky.script = []

    def assert_whole():
        for manifest in straight.manifests("tokens", study):
            one, two = (straight.read_bytes(manifest, name) for name in ("x", "y"))
            assert one == two
            assert one in (f"{who} {manifest.step}\n".encode() * 5000 for who in range(2))
        scores = straight.manifests("scores", study)
        assert len(straight.read("scores", study)) == sum(manifest.rows for manifest in scores)

    assert_whole()
    for manifest in reported:
        assert straight.find(manifest.table, study, manifest.step) == manifest
    with ThreadPoolExecutor(2) as pool:
        again = [manifest for done in pool.map(commit, range(2)) for manifest in done]
    assert len(again) == 2 * 2 * len(STEPS)
    assert len({(manifest.table, manifest.step, manifest.attempt) for manifest in [*reported, *again]}) == 2 * len(
        STEPS
    )
    assert_whole()
