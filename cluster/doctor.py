"""Checks of what a study needs from this machine; each says what to do if it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from cluster.access import status_of
from cluster.options import DEFAULT_ADDRESS
from cluster.token import token, token_file
from sharelm.errors import ShareLMError
from sharelm.formats import si

Status = Literal["ok", "warn", "fail"]
Finding = dict[str, str]
GB = 10**9


def _finding(check: str, status: Status, found: str, do: str = "") -> Finding:
    return {"check": check, "status": status, "found": found, "do": do}


def _probe(store: str) -> dict[str, Any]:
    folder = [] if "://" in store else [store]
    command = [sys.executable, "-P", "-m", "sharelm.probe", *folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise ShareLMError(f"`python -m sharelm.probe` ended with {error.returncode}: {last}") from None
    except subprocess.TimeoutExpired:
        raise ShareLMError("`python -m sharelm.probe` did not answer within 120 s") from None
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _within(text: str, least: tuple[int, int], below: tuple[int, int]) -> bool:
    major, minor = text.split(".")[:2]
    return least <= (int(major), int(minor)) < below


def _interpreter(found: dict[str, Any]) -> list[Finding]:
    python, torch, deepspeed = found["python"], found["torch"], found["deepspeed"]
    right = _within(python, (3, 11), (3, 14))
    findings = [_finding("python", "ok" if right else "fail", python, "" if right else "use Python 3.11, 3.12 or 3.13")]
    if "error" in torch:
        findings.append(_finding("torch", "fail", torch["error"], "install torch >= 2.11, < 2.14"))
    else:
        device = ", ".join(torch["gpus"]) or f"no GPU; CPU with {torch['threads']} threads of {found['cpus']} CPUs"
        right = _within(torch["version"], (2, 11), (2, 14))
        do = "" if right else "install torch >= 2.11, < 2.14"
        findings.append(_finding("torch", "ok" if right else "fail", f"{torch['version']}, {device}", do))
    if "error" in deepspeed:
        findings.append(_finding("deepspeed", "fail", deepspeed["error"], "install deepspeed >= 0.19.8, < 0.20"))
    else:
        findings.append(_finding("deepspeed", "ok", f"{deepspeed['version']}, can be imported"))
    return findings


def _ray_version() -> Finding:
    try:
        return _finding("ray", "ok", version("ray"))
    except PackageNotFoundError:
        return _finding("ray", "fail", "not installed", 'install "ray[default]" 2.60')


def check_cluster(address: str | None) -> Finding:
    """Whether the job server answers. It is asked without a token first: who can list jobs without one can run code."""
    url = (address or DEFAULT_ADDRESS).rstrip("/")
    if not url.startswith(("http://", "https://")):
        do = "give --address the job server's URL, http://HEAD:8265, to have it checked"
        return _finding("cluster", "warn", f"{url} is not an http:// address", do)
    try:
        status = status_of(url, {})
        mine = token()
        with_token = status_of(url, {"Authorization": f"Bearer {mine}"}) if mine and status in (401, 403) else status
    except (OSError, ValueError) as error:
        if address is None:
            return _finding("cluster", "ok", f"none at {url}; `sharelm run` starts its own")
        reason = getattr(error, "reason", error)
        return _finding("cluster", "fail", f"{url}: {reason}", "start it, or forward its port: see docs/clusters.md")
    if status == 200:
        do = "whoever reaches this port can run code (CVE-2023-48022): restart Ray with RAY_AUTH_MODE=token"
        return _finding("cluster", "fail", f"{url} answers anyone, without a token", do)
    if status not in (401, 403):
        do = "check that the address is Ray's job server, and read its log"
        return _finding("cluster", "fail", f"{url} answers with status {status}", do)
    if with_token != 200:
        do = "put the cluster's token into RAY_AUTH_TOKEN, or name its file in RAY_AUTH_TOKEN_PATH"
        return _finding("cluster", "fail", f"{url} does not take {'your' if mine else 'requests without a'} token", do)
    return _finding("cluster", "ok", f"{url} takes your token and refuses requests without")


def check_token() -> Finding:
    """Whether there is a token, and whether only its owner can read it."""
    if token() is None:
        do = "nothing for `sharelm run`, which makes one; for a cluster: ray get-auth-token --generate"
        return _finding("ray token", "warn", f"none in RAY_AUTH_TOKEN or {token_file()}", do)
    path = token_file()
    if path.is_file() and path.stat().st_mode & 0o077:
        return _finding("ray token", "warn", f"{path} can be read by others on this machine", f"chmod 600 {path}")
    return _finding("ray token", "ok", "there is one")


def _store(uri: str) -> list[Finding]:
    from sharelm.store import open_store

    try:
        store = open_store(uri)
        store.check_writable()
    except ShareLMError as error:
        do = "check the address, and for s3:// AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return [_finding("store", "fail", str(error), do)]
    findings = [_finding("store", "ok", f"{store.uri}: wrote, read and removed an object")]
    if store.probe_conditional_put():
        findings.append(_finding("conditional put", "ok", "a second put of one key is refused"))
    else:
        do = "never let two runs of one study work at the same time, or use a store with If-None-Match"
        findings.append(_finding("conditional put", "warn", "a second put of one key is not refused", do))
    return findings


def _room(check: str, free: int, where: str, *, warn: float, fail: float, do: str) -> Finding:
    status: Status = "fail" if free < fail * GB else "warn" if free < warn * GB else "ok"
    return _finding(check, status, f"{si(free, 'B')} free in {where}", "" if status == "ok" else do)


def _machine(found: dict[str, Any], local_store: bool) -> list[Finding]:
    shared, temporary, store = found["shared_memory"], found["temporary"], found["store"]
    findings = [
        _room(
            "memory",
            found["available_memory_bytes"],
            "RAM",
            warn=4,
            fail=1.5,
            do="close other programs, or use a machine with more",
        ),
        _room(
            "disk", temporary["free_bytes"], temporary["folder"], warn=5, fail=1, do="free it or set TMPDIR elsewhere"
        ),
    ]
    if shared is not None:
        do = "Ray falls back to slow disk: enlarge it (docker run --shm-size=4g)"
        findings.append(_room("shared memory", shared["free_bytes"], shared["folder"], warn=1, fail=0.05, do=do))
    if local_store:
        do = "free it, or give another --store"
        findings.append(_room("store's disk", store["free_bytes"], store["folder"], warn=5, fail=0.5, do=do))
    return findings


def diagnose(store: str, address: str | None) -> list[Finding]:
    """Every check in order: `check`, `status` (ok, warn or fail), what was `found`, what to `do`.

    Without an address a missing cluster is no failure: `run` starts its own.
    """
    found = _probe(store)
    return [
        *_interpreter(found),
        _ray_version(),
        check_token(),
        check_cluster(address),
        *_store(store),
        *_machine(found, "://" not in store),
    ]


def diagnosis_text(findings: list[Finding]) -> str:
    """The findings for a reader, one line each and one for what to do."""
    width = max(len(finding["check"]) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding['status']:<4}  {finding['check']:<{width}}  {finding['found']}")
        if finding["do"]:
            lines.append(f"{'':<{width + 8}}-> {finding['do']}")
    return "\n".join(lines)
