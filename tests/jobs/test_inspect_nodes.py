"""Every node of a simulated cluster is asked, by a driver that has joined it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from jobs.inspect_nodes import MARK, main
from sharelm.store import open_store
from tests.conftest import user_environment
from tests.jobs.test_several_nodes import Simulated


def inspected(store: Path | str, **inside: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.inspect_nodes", "--store", str(store)],
        env=user_environment(**inside),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)[MARK]
    return found


@pytest.mark.slow
def test_every_node_is_asked_and_nothing_is_left_in_the_store(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sli-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = Simulated(folder)
        try:
            found = inspected(tmp_path / "store", **cluster.inside)
            (tmp_path / "taken").write_text("a file where the store should be")
            refused = inspected(tmp_path / "taken" / "store", **cluster.inside)
        finally:
            cluster.end()
    assert sorted(node["ray_cpus"] for node in found["nodes"]) == [0, 1, 2]
    (driver,) = [node for node in found["nodes"] if node["driver"]]
    assert driver["ray_cpus"] == 0
    assert found["store_problem"] is None
    for node in found["nodes"]:
        assert node["store_problem"] is None
        assert abs(node["clock_ahead_s"]) < 1  # all of them have this machine's clock
        assert node["torch"]["version"] == driver["torch"]["version"]
        assert node["temporary"]["free_bytes"] > 0
    assert open_store(str(tmp_path / "store")).objects.list(".check") == []
    assert "taken" in refused["store_problem"]
    assert [node["store_problem"] for node in refused["nodes"]] == [None] * 3  # nothing was there to be read


def test_a_store_that_cannot_be_is_refused_before_ray_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", "gs://bucket/x"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: --store = 'gs://bucket/x': gs:// is not known; give a folder or s3://bucket/prefix\n"
