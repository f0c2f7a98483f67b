"""What other processes take of a machine, and what threads do about it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

import jobs.load
from jobs.load import IDLE_SPINS, LOADED, LOADED_SPINS, SPIN, LoadOfOthers, set_spinning


@pytest.mark.parametrize(("others", "spins"), [(0.0, IDLE_SPINS), (LOADED, LOADED_SPINS), (3.0, LOADED_SPINS)])
def test_threads_sleep_at_once_where_others_are_busy(
    monkeypatch: pytest.MonkeyPatch, others: float, spins: int
) -> None:
    monkeypatch.setenv(SPIN, "")
    monkeypatch.delenv(SPIN)
    told = set_spinning(others)
    assert os.environ[SPIN] == str(spins)
    assert (told is None) == (others < LOADED)
    assert told is None or f"{others:.1f} of this machine's" in told


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SPIN, "77")
    assert set_spinning(2.0) is not None
    assert os.environ[SPIN] == "77"


def test_own_work_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 CPU seconds of the machine in 2 seconds, of which 1.5 were its own."""
    clock, figures = iter([10.0, 12.0, 12.0]), iter([(100.0, 7.0), (103.0, 8.5)])
    monkeypatch.setattr(jobs.load.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(jobs.load, "_busy_seconds", lambda: next(figures))
    assert LoadOfOthers().cpus() == pytest.approx(0.75)


def test_another_process_counts() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinner:
        try:
            process = psutil.Process(spinner.pid)
            load, before, started = LoadOfOthers(), process.cpu_times(), time.monotonic()
            time.sleep(1.5)
            found, after = load.cpus(), process.cpu_times()
            taken = (after.user - before.user) / (time.monotonic() - started)
        finally:
            spinner.kill()
    assert found >= 0.8 * taken > 0
