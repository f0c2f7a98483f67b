"""What every node of a cluster offers, asked on the node itself: `python -m jobs.inspect_nodes --store URI`.

It trains nothing. It prints one JSON line: for each node its versions, devices and free disk, how far its clock is from
the driver's, and whether it reads what the driver wrote to the store. Exit codes: 0 all nodes were asked, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.failures import cause, sentence
from jobs.load import LoadOfOthers
from jobs.nodes import Node, living_nodes
from jobs.session import ray_session
from sharelm.errors import ShareLMError
from sharelm.probe import probe
from sharelm.store import Store, open_store

MARK = "sharelm_nodes"  # the key by which the line is found in a job's log
ANSWER_S, CLOCK_S, PINGS = 120, 10, 3


def read_store(uri: str, key: str, content: bytes) -> str | None:
    """Why this node does not read what the driver wrote; None where it does."""
    try:
        found = open_store(uri).objects.get(key)
    except FileNotFoundError:
        return "it does not see what the driver wrote there"
    except ShareLMError as error:
        return " ".join(str(error).split())
    return None if found == content else "it reads something else than the driver wrote there"


class _Inspector:
    """Lives on the node that is asked."""

    def look(self, uri: str, key: str | None, content: bytes) -> dict[str, Any]:
        """What the node offers, and why it does not read the store (None where it does, or nothing was written)."""
        return {
            **probe(Path(tempfile.gettempdir())),
            "ray": ray.__version__,
            "image": os.environ.get("SHARELM_IMAGE"),
            "store_problem": read_store(uri, key, content) if key else None,
        }

    def clock(self) -> float:
        """Seconds since the epoch."""
        return time.time()


def _clock_of(inspector: Any) -> float:
    found: float = ray.get(inspector.clock.remote(), timeout=CLOCK_S)
    return found


def _ahead(clock: Callable[[], float]) -> float:
    """Seconds that a clock is ahead of this one, by the quickest of a few answers."""
    answers = []
    for _ in range(PINGS):
        asked = time.time()
        there = clock()
        answered = time.time()
        answers.append((answered - asked, there - (asked + answered) / 2))
    return min(answers)[1]


def _written(store: Store, key: str, content: bytes) -> str | None:
    """Write this to the store; why it could not be, or None."""
    try:
        store.check_writable()  # says within seconds what is wrong
        store.objects.put(key, content)
    except ShareLMError as error:
        return " ".join(str(error).split())
    return None


def inspect(uri: str) -> dict[str, Any]:
    """Ask every living node of the Ray that this driver has joined."""
    store, key, content = open_store(uri), f".check/{uuid.uuid4().hex}", uuid.uuid4().bytes
    problem = _written(store, key, content)
    try:
        found = _ask(living_nodes(), uri, None if problem else key, content)
    finally:
        if problem is None:
            store.objects.delete([key])
    return {"store_problem": problem, "nodes": found}


def _ask(nodes: list[Node], uri: str, key: str | None, content: bytes) -> list[dict[str, Any]]:
    # Of no GPU, so that busy ones are looked at as well; no later task may run where CUDA has met all of a node's GPUs.
    inspector: Any = ray.remote(num_cpus=0)(_Inspector)
    there: dict[str, Any] = {}
    for node in nodes:
        on_node = NodeAffinitySchedulingStrategy(node.id, soft=False)
        there[node.id] = inspector.options(scheduling_strategy=on_node).remote()
    looks = {id: actor.look.remote(uri, key, content) for id, actor in there.items()}
    ready, _ = ray.wait(list(looks.values()), num_returns=len(looks), timeout=ANSWER_S)
    driver = ray.get_runtime_context().get_node_id()
    found = []
    for node in nodes:
        about: dict[str, Any] = {"address": node.address, "id": node.id, "driver": node.id == driver}
        about |= {"ray_cpus": node.cpus, "ray_gpus": node.gpus}
        actor, look = there[node.id], looks[node.id]
        if look not in ready:
            about["error"] = f"it did not answer within {ANSWER_S} s"
        else:
            try:
                about |= ray.get(look)
                about["clock_ahead_s"] = _ahead(partial(_clock_of, actor))
            except (ray.exceptions.RayError, TimeoutError) as error:
                about["error"] = sentence(cause(error))
        found.append(about)
        ray.kill(actor)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Ask the nodes from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.inspect_nodes", description="Ask what each node offers.")
    parser.add_argument("--store", required=True, help="a folder or s3://bucket/prefix")
    options = parser.parse_args(arguments)
    try:
        open_store(options.store)
        with ray_session(LoadOfOthers(), lambda _: None):
            found = inspect(options.store)
    except ShareLMError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    print(json.dumps({MARK: found}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
