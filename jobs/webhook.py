"""The message about a night to a webhook: Slack-compatible JSON, signed, tried again with back-off.

`SHARELM_WEBHOOK_URL` names it. With `SHARELM_WEBHOOK_SECRET` the message is signed. Both are secrets and are never
printed, and nothing of the environment is in the message.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Sequence

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

URL, SECRET = "SHARELM_WEBHOOK_URL", "SHARELM_WEBHOOK_SECRET"
TIMEOUT_S, TRIES, BACKOFF_S = 10, 5, 1.0
_BLOCK = 2900  # Slack takes 3,000 characters a block


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 of `timestamp.body`, as the header `X-ShareLM-Signature` has it."""
    return f"sha256={hmac.new(secret.encode(), timestamp.encode() + b'.' + body, hashlib.sha256).hexdigest()}"


def payload(lines: Sequence[str]) -> bytes:
    """The message: its first line as Slack's notification, and all lines as blocks."""
    blocks: list[str] = []
    for line in lines:
        if blocks and len(blocks[-1]) + len(line) < _BLOCK:
            blocks[-1] += f"\n{line}"
        else:
            blocks.append(line[:_BLOCK])
    sections = [{"type": "section", "text": {"type": "plain_text", "text": block}} for block in blocks]
    return json.dumps({"text": lines[0], "blocks": sections}, ensure_ascii=False).encode()


def send(lines: Sequence[str]) -> bool:
    """Post the message where a webhook is named; whether it was taken.

    A webhook that cannot be reached fails no night: standard error says so, without the address.
    """
    url, secret = os.environ.get(URL), os.environ.get(SECRET)
    if not url:
        return False
    body, timestamp = payload(lines), str(int(time.time()))
    headers = {"Content-Type": "application/json", "X-ShareLM-Timestamp": timestamp}
    if secret:
        headers["X-ShareLM-Signature"] = signature(secret, timestamp, body)
    again = Retry(
        total=TRIES - 1,
        backoff_factor=BACKOFF_S,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=("POST",),
        redirect=0,
    )
    try:
        with requests.Session() as session:
            for scheme in ("https://", "http://"):
                session.mount(scheme, HTTPAdapter(max_retries=again))
            session.post(url, data=body, headers=headers, timeout=TIMEOUT_S, allow_redirects=False).raise_for_status()
    except (requests.exceptions.RequestException, ValueError) as error:
        answer = getattr(error, "response", None)
        return _failed(type(error).__name__ if answer is None else f"it answers {answer.status_code}")
    return True


def _failed(why: str) -> bool:
    print(f"the message about the night was not taken by {URL}: {why}", file=sys.stderr)
    return False
