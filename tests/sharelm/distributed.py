"""Runs a function on several ranks, each a process of its own.

Ranks on the CPU are forked from a process that has loaded torch and DeepSpeed and started nothing: loading both takes
five seconds of a CPU, and the tests start about a hundred ranks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.loopback import free_ports

mp.get_context("forkserver").set_forkserver_preload(["tests.sharelm.loaded"])


def _rank(
    rank: int,
    environment: dict[str, str],
    world: int,
    port: int,
    backend: str,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.clear()
    os.environ |= environment | {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, rank=rank, world_size=world)
    function(*arguments)
    dist.barrier()
    # Without the interpreter's own end: gloo's and DeepSpeed's threads can abort the process there (seen once in many).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def on_ranks(world: int, function: Callable[..., None], *arguments: Any, backend: str = "gloo") -> None:
    """Run `function(*arguments)` on this many ranks; raises when one of them does."""
    everything = (dict(os.environ), world, free_ports(1)[0], backend, function, arguments)
    method = "spawn" if backend == "nccl" else "forkserver"
    mp.start_processes(_rank, everything, nprocs=world, start_method=method, join=True)
