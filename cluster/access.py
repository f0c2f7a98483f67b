"""A cluster's job server, asked before Ray is imported, which takes seconds: whether it answers, and to whom."""

from __future__ import annotations

import http.client
import ipaddress
import json
import urllib.error
import urllib.request
from importlib.metadata import version
from urllib.parse import urlsplit

from cluster.token import token, token_file
from sharelm.errors import InputError, ShareLMError

ANSWER_S = 4  # that one request may take


class ClusterError(ShareLMError):
    """The cluster cannot be reached or refuses; nothing was spent."""

    exit_code = 2


class TokenRefusedError(ClusterError):
    """The cluster takes only another token than this one, or none was sent."""


def is_loopback(address: str) -> bool:
    """Whether this address is one of this machine's own loopback."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _get(address: str, path: str, headers: dict[str, str]) -> bytes:
    request = urllib.request.Request(address.rstrip("/") + path)
    for name, value in headers.items():
        request.add_unredirected_header(name, value)  # the token is for this address only
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        content: bytes = answer.read()
    return content


def status_of(address: str, headers: dict[str, str]) -> int:
    """The status with which the job server answers who asks for its jobs; `OSError` where none answers."""
    try:
        _get(address, "/api/jobs/", headers)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def check_insecure(address: str, insecure: bool) -> None:
    """Refuse `--insecure` for an address that other machines reach."""
    if insecure and not is_loopback(address):
        raise InputError(
            f"--insecure is for a cluster on this machine's loopback, and --address = {address!r} is not there; start "
            "that cluster with RAY_AUTH_MODE=token"
        )


def refusal(address: str) -> TokenRefusedError:
    """That this cluster refuses the token, and what to do about it."""
    if token() is None:
        do = f"there is no token in RAY_AUTH_TOKEN or {token_file()}"
    else:
        do = "the token of RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH is not that cluster's"
    return TokenRefusedError(f"the cluster at {address} refuses the token: {do}")


def no_answer(address: str) -> ClusterError:
    """That no job server answers there, and what to do about it."""
    return ClusterError(
        f"no Ray job server answers at {address}; start the cluster, forward its port or give another --address"
    )


def greet(address: str) -> str:
    """The version of Ray that answers at this address and takes the token, within seconds.

    Raises `InputError` for what is no URL, and `ClusterError` where nothing answers or the token is refused.
    """
    if not address.startswith(("http://", "https://")):  # Ray would look for its other ports there, for minutes
        raise InputError(
            f"--address (or RAY_ADDRESS) = {address!r} is not the job server's URL, for example http://HEAD:8265"
        )
    mine = token()
    try:
        answer = _get(address, "/api/version", {"Authorization": f"Bearer {mine}"} if mine else {})
        return str(json.loads(answer)["ray_version"])
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise refusal(address) from None
        raise ClusterError(f"what answers at {address} is no Ray job server: it answers {error.code}") from None
    except (ValueError, KeyError, TypeError):
        raise ClusterError(f"what answers at {address} is no Ray job server: it does not say its version") from None
    except (OSError, http.client.HTTPException):
        raise no_answer(address) from None


def check_release(address: str, theirs: str) -> None:
    """Refuse a cluster of another Ray release than this machine's; the last number may differ."""
    ours = version("ray")
    if not same_release(theirs, ours):
        raise ClusterError(
            f"the cluster at {address} runs Ray {theirs} and this machine Ray {ours}; install the same release on both "
            "(constraints.txt names it)"
        )


def same_release(one: str, other: str) -> bool:
    """Whether two versions of Ray work together."""
    return one.split(".")[:2] == other.split(".")[:2]


def check_asks_for_token(address: str, insecure: bool) -> None:
    """Refuse a cluster that runs anyone's code, unless `insecure`."""
    if insecure:
        return
    try:
        status = status_of(address, {})
    except (OSError, ValueError):
        raise no_answer(address) from None
    if status == 200:
        here = ", or give --insecure" if is_loopback(address) else ""
        raise ClusterError(
            f"the cluster at {address} asks for no token, so whoever reaches this port can run code there "
            f"(CVE-2023-48022); restart Ray with RAY_AUTH_MODE=token{here}"
        )
