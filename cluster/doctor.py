"""Checks of what a study needs from this machine; each says what to do if it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cluster.access import check_release, greet, status_of
from cluster.findings import Finding, finding, library, room
from cluster.options import DEFAULT_ADDRESS
from cluster.token import token, token_file
from sharelm.errors import ShareLMError


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


def _interpreter(found: dict[str, Any]) -> list[Finding]:
    torch = found["torch"]
    if "version" in torch:
        device = ", ".join(torch["gpus"]) or f"no GPU; CPU with {torch['threads']} threads of {found['cpus']} CPUs"
        torch = {"version": torch["version"], "device": device}
    return [
        library("python", {"version": found["python"]}),
        library("torch", torch),
        library("deepspeed", found["deepspeed"]),
        library("pyarrow", found["pyarrow"]),
    ]


def _ray() -> dict[str, Any]:
    try:
        return {"version": version("ray")}
    except PackageNotFoundError:
        return {"error": "not installed"}


def check_cluster(address: str | None) -> Finding:
    """Whether the job server answers. It is asked without a token first: who can list jobs without one can run code."""
    url = (address or DEFAULT_ADDRESS).rstrip("/")
    if not url.startswith(("http://", "https://")):
        do = "give --address the job server's URL, http://HEAD:8265, to have it checked"
        return finding("cluster", "warn", f"{url} is not an http:// address", do)
    try:
        status = status_of(url, {})
        mine = token()
        with_token = status_of(url, {"Authorization": f"Bearer {mine}"}) if mine and status in (401, 403) else status
    except (OSError, ValueError) as error:
        if address is None:
            return finding("cluster", "ok", f"none at {url}; `sharelm run` starts its own")
        reason = getattr(error, "reason", error)
        return finding("cluster", "fail", f"{url}: {reason}", "start it, or forward its port: see docs/clusters.md")
    if status == 200:
        do = "whoever reaches this port can run code (CVE-2023-48022): restart Ray with RAY_AUTH_MODE=token"
        return finding("cluster", "fail", f"{url} answers anyone, without a token", do)
    if status not in (401, 403):
        do = "check that the address is Ray's job server, and read its log"
        return finding("cluster", "fail", f"{url} answers with status {status}", do)
    if with_token != 200:
        do = "put the cluster's token into RAY_AUTH_TOKEN, or name its file in RAY_AUTH_TOKEN_PATH"
        return finding("cluster", "fail", f"{url} does not take {'your' if mine else 'requests without a'} token", do)
    return finding("cluster", "ok", f"{url} takes your token and refuses requests without")


def check_token() -> Finding:
    """Whether there is a token, and whether only its owner can read it."""
    if token() is None:
        do = "nothing for `sharelm run`, which makes one; for a cluster: ray get-auth-token --generate"
        return finding("ray token", "warn", f"none in RAY_AUTH_TOKEN or {token_file()}", do)
    path = token_file()
    if path.is_file() and path.stat().st_mode & 0o077:
        return finding("ray token", "warn", f"{path} can be read by others on this machine", f"chmod 600 {path}")
    return finding("ray token", "ok", "there is one")


def _store(uri: str) -> list[Finding]:
    from sharelm.store import open_store

    try:
        store = open_store(uri)
        store.check_writable()
    except ShareLMError as error:
        do = "check the address, and for s3:// AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return [finding("store", "fail", str(error), do)]
    findings = [finding("store", "ok", f"{store.uri}: wrote, read and removed an object")]
    if store.probe_conditional_put():
        findings.append(finding("conditional put", "ok", "a second put of one key is refused"))
    else:
        do = "never let two runs of one study work at the same time, or use a store with If-None-Match"
        findings.append(finding("conditional put", "warn", "a second put of one key is not refused", do))
    return findings


def _machine(found: dict[str, Any], local_store: bool) -> list[Finding]:
    shared, temporary, store = found["shared_memory"], found["temporary"], found["store"]
    findings = [
        room(
            "memory",
            found["available_memory_bytes"],
            "RAM",
            warn=4,
            fail=1.5,
            do="close other programs, or use a machine with more",
        ),
        room(
            "disk", temporary["free_bytes"], temporary["folder"], warn=5, fail=1, do="free it or set TMPDIR elsewhere"
        ),
    ]
    if shared is not None:
        do = "Ray falls back to slow disk: enlarge it (docker run --shm-size=4g)"
        findings.append(room("shared memory", shared["free_bytes"], shared["folder"], warn=1, fail=0.05, do=do))
    if local_store:
        do = "free it, or give another --store"
        findings.append(room("store's disk", store["free_bytes"], store["folder"], warn=5, fail=0.5, do=do))
    return findings


def _nodes(store: str, address: str, image: str | None, here: dict[str, Any]) -> list[Finding]:
    """What a job on the cluster finds on every node."""
    from cluster import submission  # this imports Ray
    from cluster.nodes import node_findings

    try:
        check_release(address, greet(address))
        destination = submission.store_for_cluster(store, address)
        answer = submission.inspect_nodes(submission.connect(address), destination)
    except ShareLMError as error:
        do = f"put it right and ask again; a job's log is printed by: ray job logs --address {address} JOB"
        return [finding("nodes", "fail", str(error), do)]
    return node_findings(answer, here, destination, image)


def diagnose(store: str, address: str | None, image: str | None = None) -> list[Finding]:
    """Every check in order: `check`, `status` (ok, warn or fail), what was `found`, what to `do`.

    Without an address a missing cluster is no failure: `run` starts its own. With one its nodes are asked as well, if
    its job server takes the token and refuses others.
    """
    found = {**_probe(store), "ray": _ray()}
    cluster = check_cluster(address)
    findings = [
        *_interpreter(found),
        library("ray", found["ray"]),
        check_token(),
        cluster,
        *_store(store),
        *_machine(found, "://" not in store),
    ]
    if address is not None and cluster["status"] == "ok":
        findings += _nodes(store, address, image, found)
    return findings
