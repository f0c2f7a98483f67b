"""The Ray that a study runs on: the one it was started in, or an embedded one for this process."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from sharelm.errors import InputError
from sharelm.steps import Machine
from sharelm.study import Study


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
def ray_session() -> Iterator[None]:
    """Join `RAY_ADDRESS`, or start a Ray of this process's own on loopback and stop it afterwards.

    The embedded one keeps its dashboard: without it Ray Train floods the log with failed state queries.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _reach(address)
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError as error:
            raise InputError(
                f"RAY_ADDRESS = {address!r}: the Ray there does not let this driver join ({error}); if it wants a "
                "token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
            ) from None
        try:
            yield
        finally:
            ray.shutdown()
        return
    # Ray would run workers at niceness 15: whatever else runs here would then stop a step at its slowest thread
    os.environ.setdefault("RAY_worker_niceness", "0")
    with tempfile.TemporaryDirectory(prefix="slm-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(address="local", _temp_dir=folder, _node_ip_address="127.0.0.1", include_dashboard=True, **quiet)
        try:
            yield
        finally:
            ray.shutdown()


@dataclass(frozen=True)
class Resources:
    """What one training worker, one evaluation task and one cost task take, and how many groups fit at once."""

    use_gpu: bool
    cpus_per_worker: int
    evaluation_cpus: int
    cost_cpus: int
    parallel_groups: int


def resources(study: Study) -> Resources:
    """Resources for this study on the cluster at hand.

    Raises `InputError` where the cluster cannot hold the study's workers.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cpus = int(sum(node.get("CPU", 0) for node in nodes))
    largest = max(int(node.get("CPU", 0)) for node in nodes)
    training, workers = study.training, study.training.workers
    if training.device == "gpu" and not gpus:
        raise InputError("training.device = 'gpu' but the cluster has no GPU")
    use_gpu = training.device != "cpu" and gpus > 0
    have = gpus if use_gpu else cpus
    if workers > have:
        raise InputError(f"training.workers = {workers} but the cluster has {have} {'GPUs' if use_gpu else 'CPUs'}")
    share = max(1, min(largest, cpus // (gpus if use_gpu else workers)))
    per_worker = training.cpus_per_worker or share
    if per_worker > largest:
        raise InputError(f"training.cpus_per_worker = {per_worker} but the largest node has {largest} CPUs")
    group = workers if use_gpu else workers * per_worker
    return Resources(
        use_gpu=use_gpu,
        cpus_per_worker=per_worker,
        evaluation_cpus=share if use_gpu else 1,
        cost_cpus=largest,  # a node measures one thing at a time: decoding is bound by what the CPU can launch
        parallel_groups=max(1, have // group),
    )


def _machine(precision: str, use_gpu: bool) -> Machine:
    import platform

    import torch

    if use_gpu:
        return Machine("cuda", "bf16" if precision == "auto" else precision, torch.cuda.get_device_name())
    from cpuinfo import get_cpu_info

    name = get_cpu_info().get("brand_raw") or platform.machine()
    return Machine("cpu", "fp32" if precision == "auto" else precision, f"{name} ({os.cpu_count()} CPUs)")


def machine(study: Study, have: Resources) -> Machine:
    """The machine as a worker of this study sees it."""
    task = ray.remote(num_cpus=0, num_gpus=1 if have.use_gpu else 0)(_machine)
    found: Machine = ray.get(task.remote(study.training.precision, have.use_gpu))
    return found
