"""A study on a real Ray whose arms find their own learning rates."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharelm.store import open_store
from tests.jobs.studies import NOBODY, manifests, run, write_study

pytestmark = pytest.mark.slow


TRIED_RATES = [1e-4, 1e-2, 0.3, 100.0]


def expected_rate(tried: list[dict[str, Any]]) -> float:
    """The vertex of numpy's parabola through the lowest loss and its neighbours, the lowest where one diverged."""
    losses = [row["loss_nats"] if row["status"] == "done" else math.inf for row in tried]
    best = int(np.argmin(losses))
    around = slice(best - 1, best + 2)
    if best in (0, len(tried) - 1) or not np.isfinite(losses[around]).all():
        return TRIED_RATES[best]
    a, b, _ = np.polyfit(np.log(TRIED_RATES[around]), losses[around], 2)
    return math.exp(-b / (2 * a))


def test_every_trial_learns_with_the_rate_that_its_proxies_chose(inside: dict[str, str], tmp_path: Path) -> None:
    tune = {"learning_rates": TRIED_RATES, "tokens": 128 * 4, "choose": "parabola"}
    axes = {"axes": ["depth", "parameters", "compute"]}
    path, uri = write_study(tmp_path, training={"tune": tune}, twins=axes), tmp_path / "store"
    done = run(path, uri, **inside)
    assert done.returncode == 0, done.stderr
    store = open_store(str(uri))
    tunings, trials = store.read("tunings", "small").to_pylist(), store.read("trials", "small").to_pylist()
    assert {row["arm"] for row in tunings} == {row["arm"] for row in trials}
    by_arm = {arm: [row for row in tunings if row["arm"] == arm] for arm in {row["arm"] for row in tunings}}
    assert len(by_arm) == 4
    assert len(store.manifests("proxies", "small")) == 3 * len(TRIED_RATES)  # two twins are one model
    for trial in trials:
        tried = by_arm[trial["arm"]]
        assert [row["learning_rate"] for row in tried] == TRIED_RATES
        assert tried[-1]["status"] == "diverged"  # the planted rate
        (rate,) = {row["chosen_learning_rate"] for row in tried}
        assert rate == pytest.approx(expected_rate(tried), rel=6e-3)
        assert {row["at_edge"] for row in tried} == {rate in (TRIED_RATES[0], TRIED_RATES[-1])}
        assert json.loads(trial["resolved_json"])["training"]["learning_rate"] == rate
    steps = store.read("steps", "small").to_pylist()
    highest = {arm: max(row["learning_rate"] for row in steps if row["arm"] == arm) for arm in by_arm}
    assert highest == {arm: tried[0]["chosen_learning_rate"] for arm, tried in by_arm.items()}
    (report,) = store.manifests("reports", "small")
    page = store.read_bytes(report, "report.html").decode()
    assert "Learning rates were chosen for each arm" in page
    assert "not tuned per arm" not in page

    before = manifests(uri)
    again = run(path, uri, **NOBODY)
    assert (again.returncode, again.stderr) == (0, "")
    assert manifests(uri) == before
