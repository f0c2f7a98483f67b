"""What is found on a cluster's nodes: planted problems each give their finding, and no other."""

import copy
import tomllib
from importlib.metadata import version

import pytest

from cluster.findings import RANGES, same, works
from cluster.nodes import node_findings
from jobs.inspect_nodes import MARK, read_store
from sharelm.store import open_store
from tests.conftest import ROOT

GB = 10**9
STORE = "s3://bucket/x"
HERE = {
    "python": "3.12.7",
    "torch": {"version": "2.13.0+cpu", "gpus": []},
    "deepspeed": {"version": "0.19.8"},
    "pyarrow": {"version": "26.0.1"},
    "ray": {"version": "2.60.0"},
}


def node(number, **changes):
    return {
        "address": f"10.0.0.{number}",
        "id": f"{number}" * 56,
        "driver": number == 1,
        "ray_cpus": 8,
        "ray_gpus": 2,
        **copy.deepcopy(HERE),
        "torch": {"version": "2.13.0+cu130", "gpus": ["H100", "H100"]},
        "ray": "2.60.0",
        "cpus": 8,
        "temporary": {"folder": "/tmp", "free_bytes": 100 * GB},
        "store_problem": None,
        "image": "lab:1",
        "clock_ahead_s": 0.01,
        **changes,
    }


def findings(*nodes, problem=None, image=None):
    answer = {"nodes": list(nodes), "store_problem": problem}
    found = {one["check"]: one for one in node_findings(answer, HERE, STORE, image)}
    assert all(one["do"] for one in found.values() if one["status"] != "ok")
    return found


def wrong(found):
    return {check: one["status"] for check, one in found.items() if one["status"] != "ok"}


def test_one_finding_a_check_and_node():
    found = findings(node(1), node(2), image="lab:1")
    checks = ["python", "torch", "ray", "deepspeed", "pyarrow", "devices", "store", "disk", "clock", "image"]
    assert list(found) == [f"{check} on 10.0.0.{number}" for number in (1, 2) for check in checks]
    assert wrong(found) == {}
    assert found["devices on 10.0.0.1"]["found"] == "2 x H100, 8 CPUs"


PLANTED = [
    ({"python": "3.10.2"}, "python", "fail", "use python >= 3.11, < 3.14"),
    ({"python": "3.11.9"}, "python", "fail", "the driver's node has 3.12.7"),
    ({"torch": {"version": "2.12.1", "gpus": ["H100"] * 2}}, "torch", "fail", "the driver's node has 2.13.0"),
    ({"torch": {"version": "2.14.0", "gpus": ["H100"] * 2}}, "torch", "fail", "install torch >= 2.11, < 2.14"),
    ({"deepspeed": {"error": "ImportError: no"}}, "deepspeed", "fail", "install deepspeed >= 0.19.8, < 0.20"),
    ({"pyarrow": {"version": "22.0.0"}}, "pyarrow", "fail", "install pyarrow >= 23"),
    ({"ray": "2.60.1"}, "ray", "fail", "the driver's node has 2.60.0"),
    ({"torch": {"version": "2.13.0+cpu", "gpus": []}}, "devices", "fail", "CUDA build"),
    ({"store_problem": "it does not see what the driver wrote there"}, "store", "fail", "every node mounts"),
    ({"temporary": {"folder": "/tmp", "free_bytes": 3 * GB}}, "disk", "warn", "TMPDIR"),
    ({"temporary": {"folder": "/tmp", "free_bytes": GB // 2}}, "disk", "fail", "TMPDIR"),
    ({"clock_ahead_s": 61.0}, "clock", "warn", "set the clock"),
    ({"clock_ahead_s": -3600.0}, "clock", "warn", "set the clock"),
    ({"image": None}, "image", "warn", "SHARELM_IMAGE"),
    ({"image": "lab:2"}, "image", "fail", "--image"),
]


@pytest.mark.parametrize(("changes", "check", "status", "do"), PLANTED, ids=[f"{one[1]}-{one[2]}" for one in PLANTED])
def test_a_planted_problem_is_found_on_its_node_alone(changes, check, status, do):
    found = findings(node(1), node(2, **changes), node(3), image="lab:1")
    assert wrong(found) == {f"{check} on 10.0.0.2": status}
    assert do in found[f"{check} on 10.0.0.2"]["do"]


def test_clocks_within_a_minute_are_well():
    assert wrong(findings(node(1), node(2, clock_ahead_s=-59.0), node(3, clock_ahead_s=59.0))) == {}


def test_another_version_here_is_a_warning_only():
    every = {"python": "3.13.1", "pyarrow": {"version": "25.0.0"}}
    found = findings(node(1, **every), node(2, **every))
    assert wrong(found) == {f"{name} on 10.0.0.{number}": "warn" for number in (1, 2) for name in ("python", "pyarrow")}


def test_two_kinds_of_gpu_and_a_head_that_only_coordinates():
    head = node(1, ray_cpus=0, ray_gpus=0, torch={"version": "2.13.0", "gpus": ["T4"]})
    assert wrong(findings(head, node(2), node(3))) == {}
    found = findings(head, node(2), node(3, torch={"version": "2.13.0", "gpus": ["A100", "A100"]}))
    assert wrong(found) == {"devices on 10.0.0.2": "fail", "devices on 10.0.0.3": "fail"}
    assert "A100, H100" in found["devices on 10.0.0.3"]["found"]


def test_a_store_that_the_driver_cannot_write_to_is_its_finding():
    found = findings(node(1), node(2), problem="store s3://bucket/x cannot be written")
    assert found["store on 10.0.0.1"]["found"] == "store s3://bucket/x cannot be written"
    assert wrong(found).keys() == {"store on 10.0.0.1", "store on 10.0.0.2"}


def test_a_node_that_does_not_answer_is_one_finding():
    silent = {"address": "10.0.0.2", "id": "2" * 56, "driver": False, "ray_cpus": 1, "ray_gpus": 0, "error": "it died"}
    found = findings(node(1), silent)
    assert wrong(found) == {"node 10.0.0.2": "fail"}


def test_nodes_of_one_address_are_told_apart():
    assert {"clock on 10.0.0.1 (111111)", "clock on 10.0.0.1 (222222)"} <= findings(
        node(1), node(2, address="10.0.0.1")
    ).keys()


def test_what_a_node_reads_is_what_was_written(tmp_path):
    uri = str(tmp_path / "store")
    assert "does not see" in read_store(uri, ".check/a", b"1")
    open_store(uri).objects.put(".check/a", b"1")
    assert read_store(uri, ".check/a", b"1") is None
    assert "something else" in read_store(uri, ".check/a", b"2")


def test_ranges_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {"python": project["requires-python"]}
    for line in project["dependencies"]:
        name = line.partition(">=")[0].partition("[")[0]
        asked[name] = line[line.index(">=") :]
    for name, (least, below) in RANGES.items():
        assert asked[name] == f">={least}" + (f",<{below}" if below else "")
        if name != "python":
            assert works(name, version(name))
    assert same("torch", "2.13.0+cpu", "2.13.0+cu130")
    assert not same("torch", "2.13.0", "2.13.1")


def test_terminal_and_job_agree_on_the_mark():
    from cluster.submission import NODES

    assert MARK == NODES
