"""How work is laid out on a cluster's nodes, held against placing every worker by hand; clusters that are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jobs.nodes
from jobs.nodes import Node, Resources, fit, lacking, machine
from sharelm.errors import InputError, StoreError
from sharelm.machine import Machine
from sharelm.store import open_store
from sharelm.study.training import Training
from tests.sharelm.small import TREE, small_study


def training(**changes: Any) -> Training:
    return Training.model_validate({**TREE["training"], "device": "auto", **changes})


def cluster(*sizes: tuple[int, int]) -> list[Node]:
    return [Node(f"{i + 1:056x}", f"10.0.0.{i}", cpus, gpus) for i, (cpus, gpus) in enumerate(sizes)]


def placed(nodes: list[Node], cpus: int, gpus: int, most: int) -> int:
    """Workers that find a place one after another, each on the first node with enough left."""
    left = [[node.cpus, node.gpus] for node in nodes]
    for count in range(most):
        for node in left:
            if node[0] >= cpus and node[1] >= gpus:
                node[0] -= cpus
                node[1] -= gpus
                break
        else:
            return count
    return most


sizes = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=4)


@given(sizes, st.integers(1, 6), st.none() | st.integers(1, 5), st.sampled_from(["auto", "cpu"]))
def test_groups_have_a_place_and_no_further_one_has(
    nodes: list[tuple[int, int]], workers: int, cpus: int | None, device: str
) -> None:
    there = cluster(*nodes)
    gpus = int(device == "auto" and any(node.gpus for node in there))
    asked = training(workers=workers, cpus_per_worker=cpus, device=device)
    if placed(there, cpus or 1, gpus, workers) < workers:
        with pytest.raises(InputError, match=rf"training\.workers = {workers} "):
            fit(asked, there)
        return
    have = fit(asked, there)
    assert have.use_gpu == bool(gpus)
    groups = have.parallel_groups
    assert groups >= 1
    assert placed(there, have.cpus_per_worker, gpus, 99) // workers == groups
    if cpus is None and not gpus:
        assert placed(there, have.cpus_per_worker + 1, 0, workers) < workers  # no worker could have had more
    assert placed(there, have.evaluation_cpus, gpus, 1) == placed(there, have.cost_cpus, gpus, 1) == 1


@pytest.mark.parametrize(
    ("nodes", "asked", "words"),
    [
        ([(4, 0), (4, 0)], {"workers": 9}, "training.workers = 9 but the cluster has 8 CPUs"),
        ([(4, 0)], {"device": "gpu"}, "training.device = 'gpu' but the cluster has no GPU"),
        ([(8, 2), (64, 0)], {"workers": 3}, "training.workers = 3 but the cluster has 2 GPUs"),
        ([(4, 0), (2, 0)], {"workers": 2, "cpus_per_worker": 3}, "2 nodes have room for 1"),
        ([(4, 2), (64, 0)], {"workers": 2, "cpus_per_worker": 3}, "1 nodes have room for 1"),
    ],
)
def test_a_cluster_that_cannot_hold_a_group_is_refused(
    nodes: list[tuple[int, int]], asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        fit(training(**asked), cluster(*nodes))


def test_nodes_without_gpus_lend_no_cpus_to_those_that_have() -> None:
    have = fit(training(workers=2), cluster((16, 1), (16, 1), (64, 0)))
    assert have == Resources(True, 16, 16, 16, parallel_groups=1, parallel_scores=2)


def test_trials_that_share_a_gpu_share_its_cpus() -> None:
    there = cluster((16, 2), (64, 0))
    have = fit(training(trials_per_gpu=3), there)
    assert (have.cpus_per_worker, have.parallel_groups) == (2, 6)
    assert have.worker == {"CPU": 2, "GPU": 1 / 3}
    assert have.evaluation_cpus == 8
    assert lacking(1, have, there) is None
    assert fit(training(cpus_per_worker=8, trials_per_gpu=2), there).parallel_groups == 2  # the CPUs hold no more
    assert fit(training(trials_per_gpu=2), cluster((2, 2))).parallel_groups == 2
    assert fit(training(device="cpu", trials_per_gpu=2), cluster((4, 0))).worker == {"CPU": 4}


def test_a_group_that_lost_its_node_is_said_to_wait() -> None:
    there = cluster((2, 0), (1, 0), (0, 0))
    have = fit(training(workers=3), there)
    assert lacking(3, have, there) is None
    assert lacking(3, have, there[1:]) == (
        "waiting for nodes: a group has 3 workers, the nodes that are left have room for 1"
    )


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it with what looking at each node gives or raises: the machine that the study finds."""

    class Look:
        def options(self, scheduling_strategy: Any) -> Look:
            return Look(scheduling_strategy.node_id)

        def __init__(self, node: str = "") -> None:
            self.node = node

        def remote(self, *_: Any) -> str:
            return self.node

    def call(answers: list[Any], gpu: bool, **changes: Any) -> Any:
        nodes = cluster(*[(2, int(gpu))] * len(answers))
        given_by = dict(zip([node.id for node in nodes], answers, strict=True))

        def get(node: str) -> Any:
            if isinstance(given_by[node], Exception):
                raise given_by[node]
            return given_by[node]

        fake = SimpleNamespace(remote=lambda **_: lambda _: Look(), get=get, exceptions=jobs.nodes.ray.exceptions)
        monkeypatch.setattr(jobs.nodes, "ray", fake)
        study = small_study(device="auto", **changes)
        return machine(study, fit(study.training, nodes), nodes, "/shared", "0" * 20)

    return call


def test_one_kind_of_device_is_the_machine(looked: Any) -> None:
    found = looked([(["H100", "H100"], 80, True), (["H100"], 79, True)], gpu=True)
    assert found == Machine("cuda", "bf16", "H100", memory=79)
    found = looked([(["x"], 80, True), (["x"], 90, True)], gpu=False, cpus_per_worker=1)
    assert found == Machine("cpu", "fp32", "x", memory=40)  # two workers share a node


def test_two_kinds_of_device_are_refused_since_arms_must_match(looked: Any) -> None:
    with pytest.raises(
        InputError, match=r"2 kinds of GPU \(H100 on node 10.0.0.0, A100 on node 10.0.0.1\), .* --num-gpus=0"
    ):
        looked([(["H100"], 1, True), (["A100"], 1, True)], gpu=True)
    with pytest.raises(InputError, match=r"2 kinds of CPU .* --num-cpus=0"):
        looked([(["x (2 CPUs)"], 1, True), (["x (4 CPUs)"], 1, True)], gpu=False)


def test_a_node_that_does_not_see_the_store_is_named(looked: Any) -> None:
    with pytest.raises(
        InputError, match=r"--store = '/shared': node 10.0.0.1 does not see what the driver wrote there"
    ):
        looked([(["x"], 1, True), (["x"], 1, False)], gpu=False)
    failed = jobs.nodes.ray.exceptions.RayTaskError("look", "traceback", StoreError("there are no credentials"))
    with pytest.raises(StoreError, match=r"^node 10.0.0.1: there are no credentials$"):
        looked([(["x"], 1, True), failed], gpu=False)


def test_a_look_tells_the_device_and_whether_the_data_are_there(tmp_path: Any) -> None:
    store = open_store(str(tmp_path))
    store.commit("data", "small", "1" * 20, {"x": b"1"})
    (name,), memory, sees = jobs.nodes._look(False, store.uri, "small", "1" * 20)
    assert sees
    assert 2**28 < memory <= psutil.virtual_memory().total
    assert name.endswith("CPUs)")
    assert jobs.nodes._look(False, str(tmp_path / "elsewhere"), "small", "1" * 20) == ([name], memory, False)
