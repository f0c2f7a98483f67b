"""Studies sent to one cluster as jobs: killed with their head and sent again, several at once, and on a full disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from benchmarks.chaos import MEASURED
from sharelm.store import open_store
from sharelm.tables import TABLES
from tests.conftest import Head, a_head, driver_of, user_environment, user_of
from tests.jobs.studies import run, started, until, write_study

pytestmark = pytest.mark.slow

LONG = {"tokens": 16 * 8 * 60, "checkpoint_steps": 10, "cpus_per_worker": 2, "max_failures": 0}
OF_COSTS = {"inference_cost", "upkeep", "important_workloads", "everywhere"}  # verdicts that rest on measurements
DISK_BYTES = 256 * 2**20
ROOM = 100_000  # enough for a temporary folder, too little for a checkpoint


def submit(path: Path, user: dict[str, str], store: Path | str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "submit", str(path), "--store", str(store), *more],
        env=user_environment(**user),
        cwd=path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(*processes: subprocess.Popen[str]) -> list[tuple[int, str]]:
    """The exit code and all the words of each."""
    with ThreadPoolExecutor(len(processes)) as pool:
        said = list(pool.map(lambda process: process.communicate(timeout=300), processes))
    return [(process.returncode, out + err) for process, (out, err) in zip(processes, said, strict=True)]


def rows(store: Path | str, table: str) -> list[dict[str, Any]]:
    """A table's rows, less what was measured and what an unfinished study concluded, in an order of their own."""
    kept = open_store(str(store))
    unfinished = {report.step for report in kept.manifests("reports", "small") if report.facts.get("missing")}
    found = [
        {name: value for name, value in row.items() if name not in MEASURED}
        for row in kept.read(table, "small").to_pylist()
        if row.get("step") not in unfinished
    ]
    if table == "verdicts":
        named = ("variant", "kind", "name", "step")
        found = [{name: row[name] for name in named} if row["name"] in OF_COSTS else row for row in found]
    return sorted(found, key=repr)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """The head's settings; its disk for temporary files is a small one of its own where mounting is allowed."""
    with a_head() as found:
        disk = found.folder / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "sharelm", str(disk)]
        try:
            mounted = subprocess.run(mount, capture_output=True).returncode == 0
        except FileNotFoundError:
            mounted = False
        try:
            yield found
        finally:
            found.kill()
            if mounted:
                subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="module")
def disturbed(head: Head, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A submitted study whose driver was killed in a trial, then its head, which is started again; the study is not."""
    path = write_study(tmp_path_factory.mktemp("disturbed"), training=LONG)
    store = path.parent / "store"
    cluster = head.start()
    ((code, said),) = ended(submit(path, user_of(cluster), store))
    assert code == 0, said
    follower = submit(path, user_of(cluster), store, "--wait")  # the same study: it follows that job
    trial = until(lambda: list(store.glob("trials/*/*/manifest.json")), follower)[0].parent.name
    checkpoints = "checkpoints/*/*/manifest.json"  # the next trial's: this one's last may still be there
    until(lambda: [path for path in store.glob(checkpoints) if not path.parent.name.startswith(trial)], follower)
    for worker in started(cluster.pid, "TrainWorker"):
        worker.suspend()  # it would end its trial while the driver is killed
    for driver in started(cluster.pid, "-m jobs.study"):  # and the shell that started it
        driver.kill()
    ((code, said),) = ended(follower)
    assert code != 0, said
    head.kill()
    assert not open_store(str(store)).manifests("reports", "small")
    again = head.start(TMPDIR=str(head.folder / "disk"))
    return SimpleNamespace(path=path, store=store, user=user_of(again), inside=driver_of(again))


@pytest.fixture(scope="module")
def undisturbed(head: Head, disturbed: SimpleNamespace) -> SimpleNamespace:
    """The same study, run to its end without a fault; `full` is how it ended before, while the disk was full."""
    disk, store, full = head.folder / "disk", disturbed.path.parent / "undisturbed", None
    if disk.is_mount():
        filler = disk / "filler"
        with filler.open("wb") as file:
            while (free := psutil.disk_usage(str(disk)).free) > ROOM:
                file.write(bytes(min(free - ROOM, 1 << 20)))
                file.flush()
        full = run(disturbed.path, store, **disturbed.inside)
        assert not open_store(str(store)).manifests("trials", "small")
        filler.unlink()
    return SimpleNamespace(store=store, full=full, done=run(disturbed.path, store, **disturbed.inside))


def test_a_full_disk_is_told_and_the_study_goes_on_when_there_is_space(undisturbed: SimpleNamespace) -> None:
    if undisturbed.full is None:
        pytest.skip("mounting a small disk is not allowed here")
    assert (undisturbed.full.returncode, undisturbed.full.stdout) == (1, "")
    assert "Traceback" not in undisturbed.full.stderr
    sentence = undisturbed.full.stderr.splitlines()[-1]
    assert sentence.startswith("error: ")
    assert "a disk is full" in sentence
    assert "free some space, or let TMPDIR of that node's Ray name another disk" in sentence
    assert undisturbed.done.returncode == 0, undisturbed.done.stderr


def test_a_study_whose_driver_and_head_were_killed_ends_with_the_rows_of_an_undisturbed_one(
    disturbed: SimpleNamespace, undisturbed: SimpleNamespace
) -> None:
    assert undisturbed.done.returncode == 0, undisturbed.done.stderr
    before = len(open_store(str(disturbed.store)).manifests("trials", "small"))
    ((code, said),) = ended(submit(disturbed.path, disturbed.user, disturbed.store, "--wait"))
    assert code == 0, said
    assert "report: " in said
    trials = open_store(str(disturbed.store)).read("trials", "small").to_pylist()
    assert 1 <= before < len(trials) == 3
    assert sum(row["resumes"] for row in trials) >= 1
    for table in TABLES:
        assert rows(disturbed.store, table) == rows(undisturbed.store, table), table


def test_three_submits_at_once_of_which_two_have_one_name(disturbed: SimpleNamespace, tmp_path: Path) -> None:
    """Each group takes the whole cluster. Of two studies of one name the second is refused in one sentence."""
    pairs = {"workers": 2, "cpus_per_worker": 1}
    given = {"one": ("small", 1e-2), "two": ("small", 2e-2), "other": ("other", 1e-2)}
    paths = [
        write_study(tmp_path, f"{file}.toml", study={"name": name}, training={**pairs, "learning_rate": rate})
        for file, (name, rate) in given.items()
    ]
    store = tmp_path / "store"
    *both, other = ended(*(submit(path, disturbed.user, store, "--wait") for path in paths))
    assert sorted(code for code, _ in both) == [0, 2], both
    for (code, said), (_, rate) in zip(both, given.values(), strict=False):
        if code == 0:
            won = rate
        else:
            (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
            assert "training.learning_rate" in sentence
            assert "may grow but not change" in sentence
            assert "Traceback" not in said
    assert (other[0], "report: " in other[1]) == (0, True), other
    found = open_store(str(store))
    for name in ("small", "other"):
        assert found.read("trials", name).column("workers").to_pylist() == [2, 2, 2]
        assert len(found.manifests("reports", name)) == 1
    trials = found.read("trials", "small").to_pylist()
    assert all(f'"learning_rate":{won}' in row["resolved_json"].replace(" ", "") for row in trials)
    assert max(row["learning_rate"] for row in found.read("steps", "small").to_pylist()) == won
