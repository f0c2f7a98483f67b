"""What an observer is told of a store: operations that are answered or fail, and requests that are sent again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sharelm.errors import StoreError
from sharelm.store import open_store
from sharelm.store.observer import observe


class Told:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.operations: list[tuple[str, bool]] = []
        self.seconds: list[float] = []
        self.retries = 0

    def finished(self, operation: str, seconds: float, failed: bool) -> None:
        self.operations.append((operation, failed))
        self.seconds.append(seconds)

    def retried(self) -> None:
        self.retries += 1


@pytest.fixture
def told() -> Iterator[Told]:
    observer = Told()
    observe(observer)
    yield observer
    observe(None)


class Busy(BaseHTTPRequestHandler):
    """An S3 server that is busy for as many requests as `left` says, and then has every object."""

    left = 0

    def do_GET(self) -> None:
        busy = Busy.left > 0
        Busy.left -= busy
        body = b"<Error><Code>SlowDown</Code></Error>" if busy else b"content"
        self.send_response(503 if busy else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def busy_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Busy]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of nobody")
    yield Busy
    server.shutdown()
    server.server_close()


def test_operations_of_a_folder(told: Told, tmp_path: Path) -> None:
    objects = open_store(str(tmp_path / "store")).objects
    objects.put("a/one", b"1")
    assert objects.put_new("a/two", b"2")
    assert not objects.put_new("a/two", b"3")
    assert objects.get("a/two") == b"2"
    assert objects.list("a") == ["a/one", "a/two"]
    with pytest.raises(FileNotFoundError):
        objects.get("a/three")
    objects.delete(["a/one"])
    names = ["put", "put_new", "put_new", "get", "list", "get", "delete"]
    assert told.operations == [(name, False) for name in names]  # what is not there is an answer
    assert all(0 < seconds < 60 for seconds in told.seconds)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        open_store(str(tmp_path / "file")).objects.put("a", b"1")
    assert told.operations[-1] == ("put", True)
    assert told.retries == 0


@pytest.mark.parametrize(("busy", "retries", "failed"), [(0, 0, False), (2, 2, False), (9, 4, True)])
def test_requests_that_are_sent_again(told: Told, busy_s3: type[Busy], busy: int, retries: int, failed: bool) -> None:
    busy_s3.left = busy
    objects = open_store("s3://bucket/prefix").objects
    if failed:
        with pytest.raises(StoreError, match="SlowDown"):
            objects.get("a")
    else:
        assert objects.get("a") == b"content"
    assert (told.operations, told.retries) == ([("get", failed)], retries)
    assert busy_s3.left == max(0, busy - 1 - retries)


def test_nobody_is_told_unless_asked(tmp_path: Path) -> None:
    told = Told()
    objects = open_store(str(tmp_path)).objects
    observe(told)
    objects.put("a", b"1")
    observe(None)
    objects.put("b", b"1")
    assert told.operations == [("put", False)]
