"""The message about a night, against a real HTTP server: signed, tried again, and no secret told."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import jobs.webhook
from jobs.webhook import SECRET, URL, payload, send

PATH = "/services/T000/B000/s3cr3t"


@dataclass
class Hook:
    """A webhook that answers with these statuses in turn, then with 200; what it was sent."""

    url: str
    answers: list[int] = field(default_factory=list)
    taken: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setattr(jobs.webhook, "BACKOFF_S", 0.01)
    found = Hook("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.taken.append((dict(self.headers), body))
            self.send_response(found.answers.pop(0) if found.answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}{PATH}"
    monkeypatch.setenv(URL, found.url)
    monkeypatch.setenv(SECRET, "key")
    yield found
    server.shutdown()
    server.server_close()


def test_a_message_is_signed_slack_json(hook: Hook) -> None:
    lines = ["Night 2026-01-02 of study s: 1 of 3 metrics is worse.", "Decoding time of cycle/chat is worse – häßlich."]
    assert send(lines)
    ((headers, body),) = hook.taken
    message = json.loads(body)
    assert message["text"] == lines[0]
    assert [block["text"]["text"] for block in message["blocks"]] == ["\n".join(lines)]
    signed = headers["X-ShareLM-Timestamp"].encode() + b"." + body
    assert headers["X-ShareLM-Signature"] == "sha256=" + hmac.new(b"key", signed, hashlib.sha256).hexdigest()


def test_a_webhook_that_is_busy_is_tried_again(hook: Hook) -> None:
    hook.answers = [503, 429, 500]
    assert send(["a"])
    assert len(hook.taken) == 4
    assert len({body for _, body in hook.taken}) == 1


@pytest.mark.parametrize(("answers", "tries", "why"), [([404], 1, "it answers 404"), ([503] * 9, 5, "RetryError")])
def test_a_webhook_that_refuses_is_said_without_its_address(
    hook: Hook, capsys: pytest.CaptureFixture[str], answers: list[int], tries: int, why: str
) -> None:
    hook.answers = answers
    assert not send(["a"])
    assert len(hook.taken) == tries
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"the message about the night was not taken by {URL}: {why}\n"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/s3cr3t", "no address s3cr3t", "ftp://127.0.0.1/s3cr3t"])
def test_an_address_that_does_not_answer_is_said_without_it(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv(URL, url)
    assert not send(["a"])
    assert "s3cr3t" not in capsys.readouterr().err
    assert hook.taken == []


def test_without_an_address_nothing_is_sent(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL)
    assert not send(["a"])
    assert hook.taken == []


def test_long_messages_are_cut_into_blocks_that_slack_takes() -> None:
    lines = [f"{number} " + "x" * 500 for number in range(40)] + ["y" * 5000]
    blocks = [block["text"]["text"] for block in json.loads(payload(lines))["blocks"]]
    assert all(len(block) <= 3000 for block in blocks)
    assert "\n".join(blocks).startswith("\n".join(lines[:40]))
