"""How busy other processes keep this machine, and how long a step's threads may then spin while they wait.

On a CPU the threads of a step meet at a barrier after every operation, hundreds of times a step. The threads of GNU's
OpenMP, which torch brings on Linux, spin there for about a millisecond before they sleep. Beside another busy process
one of them often has no core. The others then spin until it has one, and a thread that has spun its share of time away
waits for a core longer still. A thread that sleeps is woken ahead of a process that only computes. The measurements
are in docs/results/busy.
"""

from __future__ import annotations

import os
import time

import psutil

SPIN = "GOMP_SPINCOUNT"  # read once, when a process loads torch
IDLE_SPINS = 3000  # near the default on an idle machine; fewer are slower there, more are slower beside a load
LOADED_SPINS = 0  # the quickest beside a busy process
LOADED = 0.5  # CPUs
LEAST_S = 0.5  # seconds that a measurement takes


def _busy_seconds() -> tuple[float, float]:
    """CPU seconds that the machine has been busy, and those of them that were this process's and its children's."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    busy = sum(getattr(machine, name, 0.0) for name in names)
    return busy, own.user + own.system + own.children_user + own.children_system


class LoadOfOthers:
    """The CPUs that other processes keep busy, on average since this was made."""

    def __init__(self) -> None:
        self._started, self._busy = time.monotonic(), _busy_seconds()

    def cpus(self) -> float:
        """CPUs; waits until half a second has been measured. Children count as others until they have ended."""
        time.sleep(max(0.0, LEAST_S - (time.monotonic() - self._started)))
        busy, own = (now - then for now, then in zip(_busy_seconds(), self._busy, strict=True))
        return max(0.0, busy - own) / (time.monotonic() - self._started)


def set_spinning(others: float) -> str | None:
    """Set how long the threads of processes that are started from now on spin, unless the user has set it.

    Returns a sentence for the user where others keep the machine busy, else None.
    """
    loaded = others >= LOADED
    os.environ.setdefault(SPIN, str(LOADED_SPINS if loaded else IDLE_SPINS))
    if not loaded:
        return None
    return (
        f"other processes keep {others:.1f} of this machine's {os.cpu_count()} CPUs busy: training takes longer than "
        "on an idle machine, and measured costs spread more"
    )
