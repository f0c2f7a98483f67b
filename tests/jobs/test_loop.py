"""The loop over steps: the tests of `loop_on_ray.py`, in a process that no other test has used Ray in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import user_environment


def test_the_loop_on_a_real_ray() -> None:
    tests = Path(__file__).with_name("loop_on_ray.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(
        command,
        cwd=tests.parents[2],
        env=user_environment(RAY_raylet_start_wait_time_s="120"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("......")
