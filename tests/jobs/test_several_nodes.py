"""Groups whose workers lie on several nodes (simulated ones, with gloo): a node that dies, a worker that stalls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.loopback import free_ports
from sharelm.store import open_store
from tests.conftest import NICENESS, ROOT, user_environment
from tests.jobs.studies import losses, start, train_without_ray, until, write_study
from tests.sharelm.distributed import on_ranks

pytestmark = pytest.mark.slow

STEPS = 240
SPREAD = {
    "tokens": 16 * 8 * STEPS,
    "checkpoint_steps": 20,
    "workers": 2,
    "cpus_per_worker": 1,
    "placement": "spread",
    "max_failures": 1,
    "stall_timeout_s": 20,
}


class Simulated:
    """The cluster's process, and what a driver needs to join it."""

    def __init__(self, folder: str) -> None:
        Path(folder, "ray").mkdir()
        token = Path(folder, "token")
        token.write_text("0123456789abcdef" * 4)
        token.chmod(0o600)
        access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        quick = {"TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "1"}  # Ray Train's wait for a worker that does not answer
        self.log = Path(folder, "log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.jobs.simulated", f"{folder}/ray", *map(str, free_ports(3))],
                env=user_environment(
                    **access, **quick, **NICENESS, RAY_TMPDIR=folder, OMP_NUM_THREADS="1", PYTHONPATH=path
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                process_group=0,
            )
        self.raylets: dict[str, str] = {}
        self.inside = {**access, "RAY_ADDRESS": self._answer()}

    def _answer(self) -> str:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        assert line, self.log.read_text()
        answer = json.loads(line)
        self.raylets = answer["raylets"]
        return answer["address"]

    def remove(self, node: str) -> None:
        self.process.stdin.write(f"remove {node}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        self._answer()

    def workers(self) -> dict[str, list[psutil.Process]]:
        """The training workers of every node."""
        found: dict[str, list[psutil.Process]] = {}
        for pid, name in self.raylets.items():
            children = psutil.Process(int(pid)).children()
            found[name] = [child for child in children if "TrainWorker" in " ".join(child.cmdline())]
        return found

    def end(self) -> None:
        started = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        for child in started:
            if child.is_running():
                child.kill()
        psutil.wait_procs(started, timeout=10)


@pytest.fixture(scope="module")
def simulated() -> Iterator[Simulated]:
    with tempfile.TemporaryDirectory(prefix="sln-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = Simulated(folder)
        yield cluster
        cluster.end()


def checkpointed(store: Path) -> set[tuple[str, int]]:
    """The trials (by their steps' names) that have a checkpoint, and how far it is."""
    names = [manifest.step.rpartition("-") for manifest in open_store(str(store)).manifests("checkpoints", "small")]
    return {(trial, int(step)) for trial, _, step in names}


def test_a_node_that_dies_costs_no_bit_and_a_stall_is_told(simulated: Simulated, tmp_path: Path) -> None:
    path, store = write_study(tmp_path, training=SPREAD), tmp_path / "store"
    driver = start(path, store, **simulated.inside)
    until(lambda: checkpointed(store), driver)
    assert {name: len(found) for name, found in simulated.workers().items()} == {"one": 1, "two": 1}
    simulated.remove("two")
    assert not open_store(str(store)).manifests("trials", "small")
    ((first, step),) = checkpointed(store)
    assert 0 < step < STEPS

    until(lambda: {trial for trial, _ in checkpointed(store)} - {first}, driver)  # of the group's next trial
    (*_, stopped) = simulated.workers()["one"]
    stopped.suspend()
    try:
        _, err = driver.communicate(timeout=240)
    finally:
        if stopped.is_running():
            stopped.kill()
    assert driver.returncode == 0, err  # the trial that stalled has its own tries: its group did not begin with it
    assert "is tried again: a worker did nothing for 20 s while the others waited for it" in err
    assert "Traceback" not in err

    rows = open_store(str(store)).read("trials", "small").to_pylist()
    assert {row["trial"]: row["resumes"] for row in rows} == {
        "independent.s0": 1,
        "cycle.s0": 1,
        "independent-L2.s0": 0,
    }
    assert {row["workers"] for row in rows} == {2}
    on_ranks(2, train_without_ray, path, str(store), 0, str(tmp_path / "undisturbed"))
    assert losses(store, "independent.s0") == losses(tmp_path / "undisturbed", "independent.s0")
