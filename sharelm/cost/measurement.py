"""What serving one model costs under one request shape, measured on the device at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharelm.cost.memory import peak_bytes
from sharelm.cost.money import cost_per_1m_tokens
from sharelm.cost.serving import Request, Step, graphed
from sharelm.machine import Machine
from sharelm.model import Decoder, load_model
from sharelm.study.cost import Cost, Workload

WARM_UP_SECONDS = {"cpu": 1.0, "cuda": 3.0}  # an H200 served a third slower than later for its first two seconds


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    """Wall time of `run` with all that it started on the device."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def measure(weights: Path, workload: Workload, machine: Machine, cost: Cost) -> dict[str, Any]:
    """One row of the table `costs` for the model in this file, less the columns that name the trial.

    Each of `workload.repeats` requests, after some that warm up, is timed from empty caches to its last token, with
    the device waited for around the prefill and around every decoding step; on a GPU each of them is one CUDA graph.
    Throughput is that of the median request. Memory is counted in a request of its own, for counting takes time.
    """
    device = torch.device(machine.device)
    _load(weights, device, machine.precision)  # a process's first load pays for the GPU's context too
    load_seconds, model = _load(weights, device, machine.precision)
    request = Request(model, workload)
    steps = graphed(request) if device.type == "cuda" else request.steps()
    warm = time.perf_counter() + WARM_UP_SECONDS[device.type]
    _serve(steps, device)
    while time.perf_counter() < warm:
        _serve(steps, device)
    served = [_serve(steps, device) for _ in range(workload.repeats)]
    prefill = [seconds[0] for seconds in served]
    decode = [step for seconds in served for step in seconds[1:]]
    median_request = float(np.median([sum(seconds) for seconds in served]))
    tokens_per_second = workload.batch * workload.new_tokens / median_request
    weights_bytes = sum(parameter.nbytes for parameter in model.parameters())
    peak = weights_bytes + peak_bytes(lambda: serve_extremes(model, workload), device)
    return {
        "workload": workload.name,
        "device": machine.device_name,
        "precision": machine.precision,
        "batch": workload.batch,
        "prompt_tokens": workload.prompt_tokens,
        "new_tokens": workload.new_tokens,
        "prefill_ms_p50": _milliseconds(prefill, 50),
        "prefill_ms_p95": _milliseconds(prefill, 95),
        "decode_ms_p50": _milliseconds(decode, 50),
        "decode_ms_p95": _milliseconds(decode, 95),
        "generated_tokens_per_second": tokens_per_second,
        "load_seconds": load_seconds,
        "disk_bytes": weights.stat().st_size,
        "weights_bytes": weights_bytes,
        "kv_bytes": request.caches.bytes,
        "rest_bytes": peak - weights_bytes - request.caches.bytes,
        "peak_bytes": peak,
        "cost_per_1m_tokens": cost_per_1m_tokens(tokens_per_second, cost.price_per_hour),
        "currency": cost.currency,
    }


def _serve(steps: list[Step], device: torch.device) -> list[float]:
    """Seconds of a request's prefill and of each of its decoding steps."""
    return [_seconds(step, device) for step in steps]


def serve_extremes(model: Decoder, workload: Workload) -> None:
    """The two steps of a request that can hold most memory: the prefill, and the decoding step that sees most."""
    request = Request(model, workload)
    request.prefill()
    if workload.new_tokens > 1:
        request.decode_last()


def _load(weights: Path, device: torch.device, precision: str) -> tuple[float, Decoder]:
    start = time.perf_counter()
    model = load_model(weights, device, precision)
    _wait(device)
    return time.perf_counter() - start, model


def _milliseconds(seconds: list[float], percentile: int) -> float | None:
    """A percentile in milliseconds; None where nothing was timed (a request of one new token decodes nothing)."""
    return float(np.percentile(seconds, percentile)) * 1e3 if seconds else None
