"""How the loop over steps and the store scale, the work replaced by timed sleeps: `python -m benchmarks.scale PART`.

`tasks` carries out 10,000 evaluation tasks over 64 simulated CPUs by the project's own loop: each sleeps and commits a
real step. `listing` lists 100,000 committed steps of a store by keys, in fresh processes; what the store lacks of them
is written first. `units` measures what one step costs the driver and the store. Prints a table and ends with one JSON
line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import ray
import tomli_w

import jobs.driver  # noqa: F401  # the driver's memory is measured with all that a study's driver loads
from jobs.context import Context
from jobs.loop import AHEAD, Kind, Loop
from jobs.nodes import Resources
from jobs.steps import Step, study_steps
from sharelm.machine import Machine
from sharelm.store import FileRecord, Manifest, Store, open_store
from sharelm.store.manifest import NAME, folder_of
from sharelm.study import expand
from sharelm.study.load import load_study
from sharelm.tables import SCHEMA_VERSION, TABLES

STUDY, TABLE = "scale", "scores"
ROWS = 32  # of one shard's scores
MANY = 10_000
QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.toml"
LIST = """
import sys, time
from sharelm.store import open_store
store = open_store(sys.argv[1])
store.find("scores", "scale", "none")  # opens the connection
started, used = time.perf_counter(), time.process_time()
found = len(store.steps("scores", "scale"))
print(found, time.perf_counter() - started, time.process_time() - used)
"""


def name_of(number: int) -> str:
    """A step's name, as digests are."""
    return hashlib.sha256(b"%d" % number).hexdigest()[:20]


def score_rows() -> pa.Table:
    """Rows as a shard of a task gives them, most columns null."""
    return pa.Table.from_pylist([{"arm": "reference", "seed": n} for n in range(ROWS)], schema=TABLES[TABLE])


def peak_rss() -> int:
    """The most bytes of memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@ray.remote(num_cpus=1, max_retries=2)
def nap(uri: str, step: Step, seconds: float) -> None:
    """Sleep in place of scoring; look and commit as `score_model` does."""
    store = open_store(uri)
    if store.find(step.table, STUDY, step.name) is None:
        time.sleep(seconds)
        store.commit_rows(step.table, STUDY, step.name, score_rows())


@ray.remote(num_cpus=1)
def warm(uri: str, until: float) -> int:
    """Load what a task needs and stay until all workers have; this worker's own bytes."""
    open_store(uri).find(TABLE, STUDY, "none")
    score_rows()
    time.sleep(max(0.0, until - time.time()))
    own: int = psutil.Process().memory_full_info().uss
    return own


def start_ray(cpus: int) -> None:
    """An embedded Ray of so many simulated CPUs, as a study starts it."""
    import os

    os.environ.setdefault("RAY_worker_niceness", "0")
    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 1 << 28}
    ray.init(address="local", num_cpus=cpus, log_to_driver=False, logging_level="error", **options)


def sleeping(numbers: Sequence[int]) -> list[Step]:
    """A step for each number."""
    return [Step("score", TABLE, name_of(n), f"shard {n}", {"CPU": 1}, None) for n in numbers]


def carried_out(store: Store, numbers: Sequence[int], seconds: float, cpus: int) -> dict[str, float]:
    """Wall seconds of the loop over these steps, seconds spent in starting them, and the most in flight."""
    steps, starting, most = sleeping(numbers), 0.0, 0

    def start(group: Sequence[Step]) -> Any:
        nonlocal starting, most
        began = time.perf_counter()
        task = nap.remote(store.uri, group[0], seconds)
        starting += time.perf_counter() - began
        most = max(most, loop._in_flight.total() + 1)
        return task

    began, used = time.perf_counter(), time.process_time()
    loop = Loop(steps, {"score": Kind("evaluating", start, AHEAD * cpus)}, store, STUDY)
    loop.run(lambda running: print(f"\r{running['score']} left ", end="", file=sys.stderr), 60)
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    assert not loop.failures, loop.failures
    assert store.steps(TABLE, STUDY) >= {step.name for step in steps}
    return {"wall_s": wall, "driver_cpu_s": cpu, "start_s": starting, "most_in_flight": most}


def cpu_of_ray() -> float:
    """CPU seconds that all processes of this Ray have used so far."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(each.user + each.system for each in times)


def tasks(uri: str, count: int, cpus: int, seconds: float) -> dict[str, float]:
    """The loop over so many sleeping tasks beside the ideal, and how many tasks of no sleep go through a second."""
    store, began = open_store(uri), time.perf_counter()
    start_ray(cpus)
    until = time.time() + 30
    while True:  # until all workers were there at once
        own = ray.get([warm.remote(uri, until) for _ in range(cpus)])
        if time.time() < until + 1:
            break
        until = time.time() + 5
    workers_s = time.perf_counter() - began
    used = cpu_of_ray()
    quick = carried_out(store, range(-MANY // 10, 0), 0.0, cpus)
    quick_cpu, used = cpu_of_ray() - used, cpu_of_ray()
    found = carried_out(store, range(count), seconds, cpus)
    cpu = cpu_of_ray() - used
    ray.shutdown()
    ideal = -(-count // cpus) * seconds
    return {
        "tasks": count,
        "cpus": cpus,
        "sleep_s": seconds,
        "ideal_s": ideal,
        **found,
        "over_ideal": found["wall_s"] / ideal - 1,
        "start_ms_a_task": 1e3 * found["start_s"] / count,
        "driver_cpu_ms_a_task": 1e3 * found["driver_cpu_s"] / count,
        "ray_and_workers_cpu_ms_a_task": 1e3 * cpu / count,
        "driver_peak_rss_bytes": peak_rss(),
        "workers_ready_s": workers_s,
        "worker_own_bytes": sum(own) / len(own),
        "tasks_a_second_without_sleep": MANY / 10 / quick["wall_s"],
        "cpu_ms_a_task_without_sleep": 1e3 * (quick_cpu + quick["driver_cpu_s"]) / (MANY / 10),
    }


def write_committed(store: Store, numbers: Sequence[int]) -> None:
    """Put a file and a manifest for each of these steps; in a folder, without waiting for the disk."""
    data = b"x" * 1200
    sha256 = hashlib.sha256(data).hexdigest()
    root = None if store.uri.startswith("s3://") else Path(store.uri)

    def put(key: str, content: bytes) -> None:
        if root is None:
            store.objects.put(key, content)
        else:
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).write_bytes(content)

    def write(number: int) -> None:
        step = name_of(number)
        folder = folder_of(TABLE, STUDY, step)
        record = FileRecord("rows.parquet", f"{folder}/{step[:12]}-{sha256[:8]}-rows.parquet", len(data), sha256)
        when = "2026-01-01T00:00:00.000+00:00"
        manifest = Manifest(TABLE, STUDY, step, step[:12], SCHEMA_VERSION, ROWS, (record,), {}, when)
        put(record.key, data)
        put(f"{folder}/{NAME}", manifest.to_json())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, numbers))


def listing(uri: str, count: int, repeats: int) -> dict[str, Any]:
    """Seconds in which fresh processes list this many committed steps by their keys."""
    store = open_store(uri)
    there = store.steps(TABLE, STUDY)
    write_committed(store, [n for n in range(count) if name_of(n) not in there])
    wall, cpu = [], []
    for _ in range(repeats):
        output = subprocess.run([sys.executable, "-c", LIST, uri], capture_output=True, text=True, check=True).stdout
        found, seconds, used = (float(word) for word in output.split())
        assert found == count, found
        wall.append(seconds)
        cpu.append(used)
    return {"store": uri.split(":")[0] if "://" in uri else "folder", "steps": count, "list_s": wall, "cpu_s": cpu}


def each(count: int, work: Callable[[int], Any]) -> float:
    """Milliseconds that one of these takes."""
    began = time.perf_counter()
    for number in range(count):
        work(number)
    return 1e3 * (time.perf_counter() - began) / count


class Spent:
    """What this process uses from now on."""

    def __init__(self) -> None:
        self._cpu, self._bytes = time.process_time(), psutil.Process().memory_info().rss

    def a_piece(self, name: str, count: int) -> dict[str, float]:
        """Milliseconds of CPU and bytes of memory for each of so many pieces of work."""
        cpu, held = time.process_time() - self._cpu, psutil.Process().memory_info().rss - self._bytes
        return {f"{name}_cpu_ms": 1e3 * cpu / count, f"{name}_bytes": held / count}


def units(uri: str, shards: int) -> dict[str, float]:
    """What one step costs: in the store, in the driver's memory and time, and while its task is in flight."""
    store, rows, names = open_store(uri), score_rows(), [name_of(n) for n in range(200)]
    found = {
        "find_absent_ms": each(200, lambda n: store.find(TABLE, STUDY, names[n])),
        "commit_ms": each(200, lambda n: store.commit_rows(TABLE, STUDY, names[n], rows)),
        "find_ms": each(200, lambda n: store.find(TABLE, STUDY, names[n])),
        "read_ms": each(1, lambda n: store.read(TABLE, STUDY, steps=names)) / 200,
    }
    with tempfile.TemporaryDirectory() as folder:
        tree = tomllib.loads(QUICKSTART.read_text(encoding="utf-8"))
        tree["evaluation"]["task"][0]["shards"] = shards
        path = Path(folder, "study.toml")
        path.write_text(tomli_w.dumps(tree), encoding="utf-8")
        plan = expand(load_study(path))
    have = Resources(False, cpus_per_worker=1, evaluation_cpus=1, cost_cpus=1, parallel_groups=1)
    at = Context(plan.study, uri, "data", Machine("cpu", "fp32", "a CPU"), have, None)
    study_steps(expand(load_study(QUICKSTART)), at, QUICKSTART.parent)  # reads the sources that digests name
    driver = Spent()
    steps = study_steps(plan, at, QUICKSTART.parent)
    found |= {"steps": len(steps)} | driver.a_piece("make_step", len(steps))
    steps = [replace(step, needs=(), makes=()) for step in steps]
    start_ray(1)
    done = ray.put(None)
    ray.wait([done])
    driver = Spent()
    refs = iter([ray.put(None) for _ in steps])
    own = driver.a_piece("result", len(steps))
    driver = Spent()
    kinds = {kind: Kind("", lambda group: next(refs), MANY) for kind in ("trial", "score", "cost")}
    loop = Loop(steps, kinds, store, STUDY)
    loop.run(lambda running: None, 60)
    found |= driver.a_piece("loop", len(steps)) | own
    driver = Spent()
    never = nap.options(resources={"never": 1})
    waiting = [never.remote(uri, step, 0.0) for step in sleeping(range(MANY))]
    time.sleep(2)
    found |= driver.a_piece("in_flight", MANY)
    driver = Spent()
    for _ in range(5):
        ray.wait(waiting, timeout=0, fetch_local=False)
    found |= {"wait_ms_a_task_in_flight": driver.a_piece("wait", 5 * MANY)["wait_cpu_ms"]}
    ray.shutdown()
    return found


def main() -> None:
    """Measure one part, print its table and the JSON line."""
    parser = argparse.ArgumentParser(prog="benchmarks.scale")
    parser.add_argument("part", choices=("tasks", "listing", "units"))
    parser.add_argument("--store", help="a folder or s3://bucket/prefix; a temporary folder if not given")
    parser.add_argument("--tasks", type=int, default=MANY)
    parser.add_argument("--cpus", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0, help="that each task sleeps")
    parser.add_argument("--steps", type=int, default=100_000, help="that are listed")
    parser.add_argument("--shards", type=int, default=5_000, help="of a task, where the driver's cost is measured")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sharelm-", ignore_cleanup_errors=True) as folder:
        uri = options.store or folder
        if options.part == "tasks":
            result = tasks(uri, options.tasks, options.cpus, options.seconds)
        elif options.part == "listing":
            result = listing(uri, options.steps, options.repeats)
        else:
            result = units(uri, options.shards)
    print()
    for name, value in result.items():
        print(f"{name:<32}{value if not isinstance(value, float) else format(value, '.4g')}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
