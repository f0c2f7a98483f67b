"""The most memory that torch's allocator held at once while something ran: exact figures, not samples."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Largest number of bytes allocated on `device` at once by `run`, beyond what was held before it.

    On a GPU the caching allocator counts (in blocks of 512 bytes). The CPU's allocator keeps no count, but tells
    torch's profiler of every block it hands out and takes back.
    """
    if device.type == "cuda":
        run()  # what libraries set up at first use stays with the process, however many models it serves
        torch.cuda.synchronize(device)
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        peak: int = torch.cuda.max_memory_allocated(device)
        return peak - held
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its start and stop are news to nobody
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        run()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    most: int = max(accumulate((size for _, size in changes), initial=0))
    return most
