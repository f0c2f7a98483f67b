"""A whole study on all five axes and a ladder, through the driver and its worker groups."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sharelm.report.settings import to_toml
from sharelm.store import open_store
from sharelm.study.load import study_from_tree
from tests.sharelm.small import TREE, text_folder

ROOT = Path(__file__).parents[2]
AXES = ["depth", "parameters", "compute", "memory", "time"]


def run(folder, seeds):
    tree = {
        **TREE,
        "study": {"name": "small", "seeds": seeds},
        "data": {**TREE["data"], "source": [{"uri": "text.txt", "domain": "text", "document_start": "."}]},
        "twins": {"axes": AXES, "ladder": [3]},
    }
    path = folder / "study.toml"
    path.write_text(to_toml(study_from_tree(tree, "test").tree()), encoding="utf-8")
    command = [sys.executable, "-m", "jobs.study", "--study", str(path), "--store", str(folder / "store"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_five_axes_from_speeds_to_report_and_again_with_a_seed_more(tmp_path):
    folder = text_folder(tmp_path)
    first, second = run(folder, [0]), run(folder, [0, 1])
    store = open_store(str(folder / "store"))
    (speeds,) = store.manifests("speeds", "small")  # the second run went by the first's figures
    facts = speeds.facts
    seconds = 6 * 128 / facts["variant_tokens_per_second"]
    steps = max(3, round(seconds * facts["twin_tokens_per_second"] / 128))  # 3: one more than the warm-up
    rows = store.read("trials", "small", steps=second["steps"]["trials"]).to_pylist()
    assert set(first["steps"]["trials"]) < set(second["steps"]["trials"])
    assert {row["status"] for row in rows} == {"done"}
    trained = {row["arm"]: row for row in rows}
    assert {arm: row["role"] for arm, row in trained.items()}["independent-L3"] == "rung"
    compared = store.read("comparisons", "small", steps=[second["step"]]).to_pylist()
    losses = {row["axis"]: row for row in compared if (row["metric"], row["domain"]) == ("loss_nats_per_token", "all")}
    assert list(losses) == AXES
    assert {row["seeds"] for row in losses.values()} == {2}
    assert trained[losses["time"]["twin"]]["steps"] == steps
    assert losses["time"]["axis_target"] == pytest.approx(seconds)
    flops = {arm: row["training_flops_per_token"] * row["tokens"] for arm, row in trained.items()}
    assert losses["compute"]["axis_target"] == flops["cycle"]
    assert losses["compute"]["axis_reached"] == flops[losses["compute"]["twin"]]
    verdicts = store.read("verdicts", "small", steps=[second["step"]]).to_pylist()
    assert [row["name"] for row in verdicts if row["kind"] == "axis"] == AXES
    assert len(second["headline"]) == 5
    worth = store.read("sharing_worth", "small", steps=[second["step"]]).to_pylist()
    assert {row["quantity"]: row["against"] for row in worth}["phi"] == [
        *sorted(arm for arm in trained if arm in ("independent-L2", "independent-L3")),
        "independent",
    ]
