"""The Ray that a study runs on: the one it was started in, or an embedded one for this process."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import ray

from jobs.load import LoadOfOthers, set_spinning
from jobs.metrics import reporting
from sharelm.errors import InputError


def _reach(address: str) -> None:
    """Refuse an address at which nothing listens: Ray would try it for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():  # "auto"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise InputError(
            f"RAY_ADDRESS = {address!r}: no Ray answers there ({error.strerror or error}); it is HOST:PORT of the head"
        ) from None


@contextmanager
def ray_session(load: LoadOfOthers, say: Callable[[str], None]) -> Iterator[None]:
    """Join `RAY_ADDRESS`, or start a Ray of this process's own on loopback and stop it afterwards.

    Inside, standard output is standard error: Ray prints a dead node's last words there, and a driver's output is its
    answer alone. `say` tells the user where other processes keep this machine busy, by the `load` so far.
    """
    with redirect_stdout(sys.stderr), _ray(load, say), reporting():
        yield


@contextmanager
def _ray(load: LoadOfOthers, say: Callable[[str], None]) -> Iterator[None]:
    """The embedded one keeps its dashboard: without it Ray Train floods the log with failed state queries."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _reach(address)
        try:
            ray.init(address="auto", **quiet)
        except (ConnectionError, ray.exceptions.AuthenticationError) as error:
            (reason, *_) = str(error).split(". ")
            raise InputError(
                f"RAY_ADDRESS = {address!r}: the Ray there does not let this driver join ({reason}); if it wants a "
                "token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
            ) from None
        try:
            yield
        finally:
            ray.shutdown()
        return
    # Ray would run workers at niceness 15: whatever else runs here would then stop a step at its slowest thread
    os.environ.setdefault("RAY_worker_niceness", "0")
    busy = set_spinning(load.cpus())
    if busy is not None:
        say(busy)
    with tempfile.TemporaryDirectory(prefix="slm-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(address="local", _temp_dir=folder, _node_ip_address="127.0.0.1", include_dashboard=True, **quiet)
        try:
            yield
        finally:
            ray.shutdown()
