"""The nodes that a study runs on: room for its workers, one kind of device, a store that all of them see."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.failures import cause, sentence
from sharelm.errors import InputError, ShareLMError
from sharelm.machine import Machine
from sharelm.store import open_store
from sharelm.study import Study
from sharelm.study.training import Training


@dataclass(frozen=True)
class Node:
    """A living node with what Ray may use of it."""

    id: str
    address: str
    cpus: int
    gpus: int


@dataclass(frozen=True)
class Resources:
    """What one training worker, one evaluation task and one cost task take, and how many fit at once."""

    use_gpu: bool
    cpus_per_worker: int
    evaluation_cpus: int
    cost_cpus: int
    parallel_groups: int
    trials_per_gpu: int = 1
    parallel_scores: int = 1

    @property
    def worker(self) -> dict[str, float]:
        """What Ray gives one training worker."""
        return self._with_gpu(self.cpus_per_worker, 1 / self.trials_per_gpu)

    @property
    def score(self) -> dict[str, float]:
        """What Ray gives one evaluation task."""
        return self._with_gpu(self.evaluation_cpus, 1)

    @property
    def cost(self) -> dict[str, float]:
        """What Ray gives the process that measures costs."""
        return self._with_gpu(self.cost_cpus, 1)

    def devices(self, taken: Mapping[str, float]) -> float:
        """Devices that these resources are, as the price of one worker's device counts them."""
        return taken["GPU"] if self.use_gpu else taken["CPU"] / self.cpus_per_worker

    def _with_gpu(self, cpus: int, gpus: float) -> dict[str, float]:
        return {"CPU": cpus, **({"GPU": gpus} if self.use_gpu else {})}


def living_nodes() -> list[Node]:
    """The nodes that are alive now."""
    return [
        Node(n["NodeID"], n["NodeManagerAddress"], *(int(n["Resources"].get(kind, 0)) for kind in ("CPU", "GPU")))
        for n in ray.nodes()  # type: ignore[no-untyped-call]
        if n["Alive"]
    ]


def _room(nodes: Sequence[Node], cpus: int, use_gpu: bool, per_gpu: int = 1) -> int:
    """Workers of so many CPUs (and a part of a GPU) that these nodes hold at once; none spans two nodes."""
    return sum(min(node.gpus * per_gpu, node.cpus // cpus) if use_gpu else node.cpus // cpus for node in nodes)


def _working(nodes: Sequence[Node], use_gpu: bool) -> list[Node]:
    """The nodes that this study can use."""
    return [node for node in nodes if (node.gpus if use_gpu else node.cpus)]


def fit(training: Training, nodes: Sequence[Node]) -> Resources:
    """How the study's work is laid out on these nodes.

    Without `training.cpus_per_worker` a worker gets as many CPUs as leave room for all workers of a group, or for
    `training.together` workers on every GPU. Raises `InputError` where the nodes cannot hold a group.
    """
    workers, together, gpus = training.workers, training.together, sum(node.gpus for node in nodes)
    if training.device == "gpu" and not gpus:
        raise InputError("training.device = 'gpu' but the cluster has no GPU")
    use_gpu = training.device != "cpu" and gpus > 0
    working = _working(nodes, use_gpu)
    devices = gpus if use_gpu else sum(node.cpus for node in working)
    if workers > devices:
        raise InputError(f"training.workers = {workers} but the cluster has {devices} {'GPUs' if use_gpu else 'CPUs'}")
    largest = max(node.cpus for node in working)
    if use_gpu:
        share = max(1, min(node.cpus // node.gpus for node in working))
    else:
        share = next(cpus for cpus in range(largest, 0, -1) if _room(working, cpus, use_gpu) >= workers)
    per_worker = training.cpus_per_worker or (max(1, share // together) if use_gpu else share)
    room = _room(working, per_worker, use_gpu, together)
    if room < workers:
        raise InputError(
            f"training.workers = {workers} with {per_worker} CPUs each (training.cpus_per_worker), but the cluster's "
            f"{len(working)} nodes have room for {room}"
        )
    evaluation_cpus = share if use_gpu else 1
    return Resources(
        use_gpu=use_gpu,
        cpus_per_worker=per_worker,
        evaluation_cpus=evaluation_cpus,
        cost_cpus=largest,  # a node measures one thing at a time: decoding is bound by what the CPU can launch
        parallel_groups=room // workers,
        trials_per_gpu=together if use_gpu else 1,
        parallel_scores=_room(working, evaluation_cpus, use_gpu),
    )


def here() -> NodeAffinitySchedulingStrategy:
    """The driver's node, for what must live as long as the driver does; any other node may die."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def lacking(workers: int, have: Resources, nodes: Sequence[Node]) -> str | None:
    """What a group waits for since nodes are gone; None where these nodes still hold one."""
    room = _room(nodes, have.cpus_per_worker, have.use_gpu, have.trials_per_gpu)
    if room >= workers:
        return None
    return f"waiting for nodes: a group has {workers} workers, the nodes that are left have room for {room}"


def _device_names(use_gpu: bool) -> list[str]:
    """The names of this node's devices of the kind that is used."""
    import platform

    if use_gpu:
        import torch

        return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    from cpuinfo import get_cpu_info

    name = get_cpu_info().get("brand_raw") or platform.machine()
    return [f"{name} ({os.cpu_count()} CPUs)"]


def _memory(use_gpu: bool) -> int:
    """Bytes of this node's smallest GPU, or of the node itself as far as this process may use them.

    All of them, not those that are free now: a study that goes on later must come to the same ZeRO stage.
    """
    if use_gpu:
        import torch

        return min(torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count()))
    total: int = psutil.virtual_memory().total
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return total if text == "max" else min(total, int(text))


def _look(use_gpu: bool, store: str, study: str, data: str) -> tuple[list[str], int, bool]:
    """Runs on a node: its devices' names and memory, and whether it sees the data that the driver committed."""
    return _device_names(use_gpu), _memory(use_gpu), open_store(store).find("data", study, data) is not None


def machine(study: Study, have: Resources, nodes: Sequence[Node], store: str, data: str) -> Machine:
    """The machine as every worker of this study sees it; each of its nodes is looked at.

    Raises `InputError` for nodes of several kinds, since arms that are compared must meet the same one, for a node
    that does not see the store, and for a precision that the device makes wrong.
    """
    # Of no GPU, so that busy ones are looked at as well; no later task may run where CUDA has met all of a node's GPUs.
    look = ray.remote(num_cpus=0, max_calls=1)(_look)
    asked = {
        node.address: look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
            have.use_gpu, store, study.name, data
        )
        for node in _working(nodes, have.use_gpu)
    }
    kinds: dict[str, str] = {}  # the first node that has a device of this name
    rooms = []  # for one worker
    workers = {node.address: 1 if have.use_gpu else node.cpus // have.cpus_per_worker for node in nodes}
    for address, ref in asked.items():
        names, memory, sees_data = _answer(address, ref)
        rooms.append(memory // max(1, workers[address]))
        if not sees_data:
            raise InputError(
                f"--store = {store!r}: node {address} does not see what the driver wrote there; give "
                "s3://BUCKET/PREFIX, or a folder that every node mounts at this path"
            )
        for name in names:
            kinds.setdefault(name, address)
    return _machine(study, have.use_gpu, kinds, min(rooms))


def _answer(address: str, ref: Any) -> tuple[list[str], int, bool]:
    try:
        answer: tuple[list[str], int, bool] = ray.get(ref)
    except ray.exceptions.RayError as error:
        why = cause(error)
        kind = type(why) if isinstance(why, ShareLMError) else ShareLMError  # it decides the exit code
        raise kind(f"node {address}: {sentence(why)}") from None
    return answer


def _machine(study: Study, use_gpu: bool, kinds: dict[str, str], memory: int) -> Machine:
    """The one kind of device, with the precision that it is used in."""
    what = "GPU" if use_gpu else "CPU"
    if len(kinds) > 1:
        found = ", ".join(f"{name} on node {address}" for name, address in kinds.items())
        raise InputError(
            f"the cluster has {len(kinds)} kinds of {what} ({found}), and arms that are compared must meet the same "
            f"one; start Ray with --num-{what.lower()}s=0 on the nodes that the study is not to use"
        )
    precision = study.training.precision
    if precision == "auto":
        precision = "bf16" if use_gpu else "fp32"
    return Machine("cuda" if use_gpu else "cpu", precision, next(iter(kinds)), memory)
