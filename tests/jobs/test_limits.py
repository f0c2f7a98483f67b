"""A study's limits: what counts as spent, where it stops, and that it carries on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.limits import LimitReached, Spending
from sharelm.store import open_store
from sharelm.study import Study, expand, load_study
from sharelm.tables import TABLES
from tests.jobs.studies import run, write_study
from tests.sharelm.report_helpers import study_of
from tests.sharelm.synthetic import synthetic_tables

HOUR = 3600.0


def limited(**limits: float) -> Study:
    return study_of((0,), limits=limits)


def test_earlier_runs_and_this_one_count_each_by_its_devices(tmp_path: Path) -> None:
    store, study = open_store(str(tmp_path)), limited(device_hours=10.0)
    rows = synthetic_tables(study)["trials"].select(TABLES["trials"].names).to_pylist()[:2]
    rows = [{**row, "training_seconds": 2 * HOUR, "workers": 2} for row in rows]  # 8 device-hours
    store.commit_rows("trials", study.name, "0" * 20, pa.Table.from_pylist(rows, schema=TABLES["trials"]))
    spending = Spending(study, store)
    spending.check(1.5 * HOUR, 3)
    with pytest.raises(LimitReached, match=r"limits.device_hours = 10 is reached: .* has spent 10 device-hours, and 3"):
        spending.check(2 * HOUR, 3)


def test_money_is_hours_at_the_price(tmp_path: Path) -> None:
    study = limited(money=0.25)
    spending = Spending(study, open_store(str(tmp_path)))
    hours = 0.25 / study.cost.price_per_hour
    spending.check(hours * HOUR * 0.99, 1)
    with pytest.raises(
        LimitReached, match=f"limits.money = 0.25 is reached: .* has spent 0.25.* {study.cost.currency}"
    ):
        spending.check(hours * HOUR * 1.01, 1)


def test_a_study_without_limits_has_none(tmp_path: Path) -> None:
    Spending(study_of((0,)), open_store(str(tmp_path))).check(1e12, 1)


@pytest.mark.parametrize("limits", [{"device_hours": 0}, {"money": -1}, {"hours": 1}])
def test_a_limit_that_is_none_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="limits"):
        study_of((0,), limits=limits)


def test_a_study_stops_at_its_limit_and_carries_on_with_a_higher_one(inside: dict[str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    stopped = run(write_study(tmp_path, limits={"device_hours": 1e-6}), store, **inside)
    assert (stopped.returncode, stopped.stdout) == (1, "")
    last = stopped.stderr.splitlines()[-1]
    assert last.startswith("error: limits.device_hours = 0.000001 is reached: study 'small' has spent ")
    assert last.endswith("what is committed stays: raise the limit and run again to carry on")
    done = run(write_study(tmp_path, limits={"device_hours": 5}), store, **inside)
    assert done.returncode == 0, done.stderr
    trials = open_store(str(store)).read("trials", "small")
    assert trials["status"].to_pylist() == ["done"] * len(expand(load_study(tmp_path / "small.toml")).trials)
