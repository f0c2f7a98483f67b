"""Random faults in tiny studies on a cluster on loopback: `python -m benchmarks.chaos --faults 50`.

A study is run undisturbed once, then over and over into stores of its own while faults are planted at random times. A
driver that ends without its report is started again, as a user would. Afterwards every row of every table must be that
of the undisturbed run, measured times aside. Prints a line a study and ends with one JSON line.

Needs `SHARELM_TEST_S3` (infra/local-s3/server.sh). A full disk needs leave to mount a tmpfs, a wrong clock Debian's
libfaketime; without them these faults are left out, and the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.flaky import Flaky
from benchmarks.loopback import Cluster, kill
from sharelm.store import Store, open_store
from sharelm.store.studies import latest_study

STUDY = Path(__file__).with_suffix(".toml")
NAME = "chaos"
TABLES = ("trials", "steps", "scores", "costs", "comparisons")
MEASURED = {  # columns that no two runs have alike
    *("training_seconds", "tokens_per_second", "training_cost", "resumes"),
    *("prefill_ms_p50", "prefill_ms_p95", "decode_ms_p50", "decode_ms_p95", "generated_tokens_per_second"),
    *("load_seconds", "rest_bytes", "peak_bytes", "cost_per_1m_tokens"),
}
MOST_DRIVERS = 12  # that one study may take; more means that it does not go on
DRIVER_S = 300
WORKS = ("TrainWorker", "score_model", "CostMeter", "TrainController")
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@dataclass
class World:
    """All that faults happen to: the cluster, the proxy before its store, the driver that runs."""

    cluster: Cluster
    proxy: Flaky
    draw: random.Random
    store: str
    full: Path | None  # a small disk of one node
    driver: subprocess.Popen[bytes] | None = None
    later: list[tuple[float, Callable[[], object]]] = field(default_factory=list)  # what is mended at which time
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def mend(self, seconds: float, action: Callable[[], object]) -> None:
        """Do this some seconds from now."""
        self.later.append((time.monotonic() + seconds, action))

    def start(self, *, clock: int = 0, study: Path = STUDY) -> subprocess.Popen[bytes]:
        """A driver of the study, whose clock is so many seconds ahead."""
        wrong = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{clock:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        command = [sys.executable, "-m", "jobs.study", "--study", str(study), "--store", self.store]
        log = (self.cluster.folder / "drivers.log").open("ab")
        environment = {**self.cluster.environment, **(wrong if clock else {})}
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, process_group=0)


def _some_worker(world: World) -> psutil.Process | None:
    """A process that trains, scores or measures now."""
    found = [process for process in world.cluster.workers() if any(word in _name(process) for word in WORKS)]
    return world.draw.choice(found) if found else None


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill_worker(world: World) -> bool:
    """A process of the study is killed."""
    worker = _some_worker(world)
    if worker is not None:
        worker.kill()
    return worker is not None


def stop_worker(world: World) -> bool:
    """A process of the study does nothing for half a minute, or until it is killed for that."""
    worker = _some_worker(world)
    if worker is not None:
        worker.suspend()
        world.mend(30, lambda: worker.resume() if worker.is_running() else None)
    return worker is not None


def kill_driver(world: World) -> bool:
    """The driver is killed."""
    assert world.driver is not None
    kill(world.driver)
    return True


def kill_node(world: World) -> bool:
    """A node goes at once and comes again after some seconds."""
    node = world.draw.randrange(len(world.cluster.nodes))
    world.cluster.stop_node(node)
    world.mend(world.draw.uniform(1, 10), lambda: world.cluster.start_node(node))
    return True


def kill_head(world: World) -> bool:
    """The head goes at once, with everything on it, and comes again with its nodes."""
    world.cluster.stop()
    assert world.driver is not None
    kill(world.driver)  # Ray's client would wait a minute for the head that does not come back
    world.cluster.start()
    return True


def _store_fault(mode: Any) -> Callable[[World], bool]:
    def plant(world: World) -> bool:
        world.proxy.mode = mode
        world.mend(world.draw.uniform(0.5, 10), lambda: setattr(world.proxy, "mode", "well"))
        return True

    return plant


def fill_disk(world: World) -> bool:
    """The disk that one node has for temporary files and downloads is full for some seconds."""
    assert world.full is not None
    filler = world.full / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
    except OSError:
        pass
    world.mend(world.draw.uniform(3, 12), lambda: filler.unlink(missing_ok=True))
    return True


def same_study_twice(world: World) -> bool:
    """Somebody else runs the same study into the same store."""
    world.others.append(world.start())
    return True


def other_study_of_that_name(world: World) -> bool:
    """Somebody else runs another study under the same name, which this one has taken already."""
    if latest_study(open_store(world.store), NAME) is None:
        return False
    other = world.cluster.folder / "other.toml"
    other.write_text(STUDY.read_text(encoding="utf-8").replace("width = 64", "width = 32"), encoding="utf-8")
    world.others.append(world.start(study=other))
    return True


def wrong_clock(world: World) -> bool:
    """The driver is started again on a machine whose clock is an hour off."""
    assert world.driver is not None
    kill(world.driver)
    world.driver = world.start(clock=world.draw.choice((-3600, 3600)))
    return True


FAULTS: dict[str, Callable[[World], bool]] = {
    "worker killed": kill_worker,
    "worker stopped": stop_worker,
    "driver killed": kill_driver,
    "node gone": kill_node,
    "head gone": kill_head,
    "store answers 503": _store_fault("refuse"),
    "store slow": _store_fault("slow"),
    "store cut": _store_fault("cut"),
    "disk full": fill_disk,
    "same study twice": same_study_twice,
    "another study of that name": other_study_of_that_name,
    "clock off by an hour": wrong_clock,
}


def rows(store: Store) -> dict[str, Counter[str]]:
    """The rows of the steps of the newest report, table by table, without what is measured."""
    report = max(store.manifests("reports", NAME), key=lambda each: each.committed_at)
    found: dict[str, Counter[str]] = {}
    for table in TABLES:
        read = store.read(table, NAME, steps=report.facts["steps"][table])
        kept = [name for name in read.column_names if name not in MEASURED]
        found[table] = Counter(json.dumps(row, sort_keys=True) for row in read.select(kept).to_pylist())
    return found


def finish(world: World, planned: list[tuple[float, str]]) -> tuple[Counter[str], int]:
    """Run the study to its report; the faults that were planted, and how many drivers it took."""
    planted: Counter[str] = Counter()
    began, world.driver, drivers = time.monotonic(), world.start(), 1
    deadline = began + DRIVER_S
    while True:
        now = time.monotonic()
        for due, action in [each for each in world.later if each[0] <= now]:
            world.later.remove((due, action))
            action()
        while planned and now - began >= planned[0][0]:
            if not FAULTS[planned[0][1]](world):
                break  # nothing there yet to happen to
            planted[planned.pop(0)[1]] += 1
        code = world.driver.poll()
        if code == 0:
            break
        if code is not None or now > deadline:
            if drivers == MOST_DRIVERS:
                raise SystemExit(f"the study did not end with {MOST_DRIVERS} drivers: see {world.cluster.folder}")
            kill(world.driver)
            while world.later:  # whoever starts a study again has seen that its cluster and its store are well
                due, action = world.later.pop(0)
                time.sleep(max(0.0, due - time.monotonic()))
                action()
            world.driver, drivers, deadline = world.start(), drivers + 1, time.monotonic() + DRIVER_S
        time.sleep(0.1)
    for _, action in world.later:
        action()
    world.later.clear()
    for other in world.others:
        kill(other)
    world.others.clear()
    return planted, drivers


def difference(found: dict[str, Counter[str]], reference: dict[str, Counter[str]]) -> tuple[int, int]:
    """How many rows are lost, and how many are there that should not be."""
    lost = sum((reference[table] - found[table]).total() for table in TABLES)
    extra = sum((found[table] - reference[table]).total() for table in TABLES)
    return lost, extra


def main() -> None:
    """Plant faults until there are as many as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, began = random.Random(options.seed), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="slx-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        Flaky(os.environ["AWS_ENDPOINT_URL"]) as proxy,
    ):
        small = Path(folder, "small")
        small.mkdir()
        mounted = not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)]).returncode
        kinds = [name for name in FAULTS if mounted or name != "disk full"]
        kinds = [name for name in kinds if FAKETIME.exists() or name != "clock off by an hour"]
        cluster = Cluster(Path(folder), {"AWS_ENDPOINT_URL": proxy.url}, small if mounted else None)
        try:
            result = plant_all(cluster, proxy, draw, kinds, options.faults)
        finally:
            cluster.stop()
            if mounted:
                subprocess.run(["umount", str(small)], check=False)
    result |= {"left_out": sorted(FAULTS.keys() - set(kinds)), "seed": options.seed}
    print(json.dumps(result | {"minutes": round((time.monotonic() - began) / 60, 1)}))
    if result["rows_lost"] or result["rows_doubled"]:
        raise SystemExit(1)


def plant_all(cluster: Cluster, proxy: Flaky, draw: random.Random, kinds: list[str], faults: int) -> dict[str, Any]:
    """Studies, each with some faults, until there were as many faults as asked for."""
    where = f"{os.environ['SHARELM_TEST_S3']}/chaos-{os.getpid()}"
    world = World(cluster, proxy, draw, f"{where}/0", cluster.small)
    cluster.start()
    alone = time.monotonic()
    finish(world, [])
    lasts = time.monotonic() - alone
    reference = rows(open_store(world.store))
    counts = {table: count.total() for table, count in reference.items()}
    print(f"undisturbed: {lasts:.0f} s, rows {counts}", flush=True)
    planted: Counter[str] = Counter()
    total: Counter[str] = Counter()
    waiting: list[str] = []  # every kind comes up about as often as the others
    while planted.total() < faults:
        world.store = f"{where}/{total['studies'] + 1}"
        count = min(draw.randint(2, 5), faults - planted.total())
        while len(waiting) < count:
            waiting += draw.sample(kinds, len(kinds))
        times = sorted(draw.uniform(1, lasts) for _ in range(count))
        planned = [(at, waiting.pop(0)) for at in times]
        started = time.monotonic()
        now, drivers = finish(world, planned)
        waiting += [name for _, name in planned]  # the study ended before
        lost, extra = difference(rows(open_store(world.store)), reference)
        resumes = sum(row["resumes"] for row in open_store(world.store).read("trials", NAME).to_pylist())
        planted += now
        total += Counter(studies=1, drivers=drivers, lost=lost, extra=extra, resumes=resumes)
        told = ", ".join(f"{name} x {number}" if number > 1 else name for name, number in now.items()) or "nothing"
        print(
            f"{total['studies']:3} {time.monotonic() - started:5.0f} s  drivers {drivers}  resumes {resumes}  "
            f"rows lost {lost}, doubled {extra}  {told}",
            flush=True,
        )
    for name in kinds:
        print(f"{planted[name]:4} {name}")
    return {
        "benchmark": "chaos",
        "faults": planted.total(),
        "by_kind": dict(planted),
        "studies": total["studies"],
        "drivers": total["drivers"],
        "trials_resumed": total["resumes"],
        "rows_of_a_study": counts,
        "rows_lost": total["lost"],
        "rows_doubled": total["extra"],
        "digests_equal": not (total["lost"] or total["extra"]),
        "undisturbed_seconds": round(lasts, 1),
    }


if __name__ == "__main__":
    main()
