"""The driver's parts that need no Ray: groups, covered time, progress, exit codes, the last line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import jobs.progress
import jobs.study
from jobs.board import Snapshot, Standing, covered
from jobs.context import Context
from jobs.measure import CostMeter
from jobs.nodes import Resources
from jobs.progress import Progress
from jobs.steps import Costing, Step
from jobs.train import split
from sharelm.errors import InputError, IntegrityError, ShareLMError, StoreError
from sharelm.machine import Machine
from sharelm.store import Manifest, open_store
from sharelm.study import expand
from tests.sharelm.small import small_study


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 10))
def test_groups_hold_every_trial_once_in_order_and_none_too_many(count: int, parallel: int, per_group: int) -> None:
    groups = split(range(count), [7] * count, parallel, per_group)
    assert sorted(number for group in groups for number in group) == list(range(count))
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1  # all take as long
    assert max(sizes) <= per_group
    assert len(groups) % parallel == 0 or len(groups) == count  # no workers idle while a last group is trained
    assert all(group == sorted(group) for group in groups)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 5))
def test_groups_take_about_as_long(flops: list[int], parallel: int) -> None:
    loads = [sum(group) for group in split(flops, flops, parallel, 30)]
    machines = min(parallel, len(flops))
    assert max(loads) <= sum(flops) / machines + (1 - 1 / machines) * max(flops) + 1e-9  # Graham 1969


def test_no_trial_is_no_group() -> None:
    assert split([], [], 2, 4) == []


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=12))
def test_covered_seconds_are_counted_once(spans: list[tuple[int, int]]) -> None:
    seconds = {second for start, length in spans for second in range(start, start + length)}
    assert covered((start, start + length) for start, length in spans) == len(seconds)


class Clock:
    """Time as a test sets it."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(jobs.progress, "time", found)
    return found


LONG = "word " * 60


def test_plain_progress_is_whole_lines_now_and_then(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    board = Snapshot()
    with Progress() as progress:
        progress.expect({"a.s0": 100, "b.s0": 100, "c.s0": 100})
        progress.stage(f"[study] {LONG}")
        for second, standing in enumerate([None, None, 20, 40, 60, 100], 1):
            clock.now = 1000 + 11.0 * second
            if standing:
                board.trials["a.s0"] = Standing(standing, 2.5, 1234.0)
            progress.show(progress.training(board))
            progress.show("too soon for another line")
    assert capsys.readouterr().err.splitlines() == [
        f"[study] {LONG}",
        "starting workers",
        "starting workers",
        "training: 0 of 3 trials done; a.s0 step 20/100, loss 2.500, 1,234 tokens/s",
        # 20 steps in 11 s, 260 are left; then 40 in 22 s, 240 are left
        "training: 0 of 3 trials done; a.s0 step 40/100, loss 2.500, 1,234 tokens/s, about 2 min 23 s left",
        "training: 0 of 3 trials done; a.s0 step 60/100, loss 2.500, 1,234 tokens/s, about 2 min 12 s left",
        "training: 1 of 3 trials done",
    ]


def test_steps_done_before_a_resume_do_not_shorten_the_estimate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    board = Snapshot(trials={"a.s0": Standing(500, 1.0, 10.0)})
    with Progress() as progress:
        progress.expect({"a.s0": 1000})
        progress.show(progress.training(board))
        board.trials["a.s0"] = Standing(510, 1.0, 10.0)
        clock.now += 20
        progress.show(progress.training(board))
    assert "about 16 min 20 s left" in capsys.readouterr().err  # 490 steps at 2 s


def test_proxies_and_then_trials_are_counted_by_themselves(clock: Clock) -> None:
    board = Snapshot(trials={"a-lr0.1.s0": Standing(5, 9.0, 10.0)})
    with Progress() as progress:
        progress.expect({"a-lr0.1.s0": 5, "a-lr0.2.s0": 5}, "proxies")
        assert progress.training(board) == "training: 1 of 2 proxies done"
        progress.expect({"a.s0": 10})
        assert progress.training(board) == "starting workers"
        board.trials["a.s0"] = Standing(10, 1.0, 10.0)
        assert progress.training(board) == "training: 1 of 1 trials done"


def test_a_terminal_has_a_live_line(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        jobs.progress, "Console", lambda file: Console(file=screen, force_terminal=True, width=120, color_system=None)
    )
    with Progress() as progress:
        progress.expect({"a.s0": 10})
        progress.stage("study x")
        clock.now += 60
        progress.show(progress.training(Snapshot(trials={"a.s0": Standing(5, 1.0, 10.0)})))
        progress._status._live.refresh()  # type: ignore[union-attr]  # else it is drawn when its thread gets round to it
        assert "a.s0 step 5/10" in screen.getvalue()
        live = screen.getvalue()
    assert live.count("study x") >= 1
    assert screen.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # the cursor is back, the live line gone


@pytest.fixture
def report() -> Manifest:
    facts = {
        "headline": ["One.", "Two."],
        "wall_seconds": 100.0,
        "compute_seconds": 75.0,
        "seconds": {"training": 60.0, "evaluation": 10.0, "cost": 5.0},
    }
    return Manifest("reports", "small", "0" * 20, "a", None, None, (), facts, "2026-01-02T03:04:05.678+00:00")


ARGUMENTS = ["--study", "x.toml", "--store", "results"]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ShareLMError("it broke"), 1, "error: it broke\n"),
        (IntegrityError("x was altered"), 1, "error: x was altered\n"),
        (InputError("x = 1 is bad"), 2, "error: x = 1 is bad\n"),
        (StoreError("no store"), 2, "error: no store\n"),
        (KeyboardInterrupt(), 130, "interrupted; what was committed stays, run again to carry on\n"),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(jobs.study, "run_study", fail)
    assert jobs.study.main(ARGUMENTS) == code
    assert tuple(capsys.readouterr()) == ("", said)


def test_a_finished_run_ends_with_text_or_one_json_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], report: Manifest
) -> None:
    monkeypatch.setattr(jobs.study, "run_study", lambda *_: (report, False))
    assert jobs.study.main([*ARGUMENTS, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"store": "results", "study": "small", "step": "0" * 20, **report.facts}


def test_options_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        jobs.study.main([])
    assert end.value.code == 2
    assert "--study" in capsys.readouterr().err


def test_the_driver_says_that_nothing_is_left_without_torch_and_ray() -> None:
    """Importing it must stay cheap: a finished study is said to be so within seconds."""
    code = "import sys, jobs.study; print(sorted({'torch', 'ray', 'deepspeed'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_driver_and_its_board_need_no_torch() -> None:
    """Each is a process of its own: torch would cost both seconds and memory."""
    code = "import sys, jobs.driver; print(sorted({'torch', 'deepspeed'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_cost_that_cannot_be_measured_does_not_keep_the_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study()
    trial, workload = expand(study).trials[0], study.cost.workload[0]
    store = open_store(str(tmp_path))

    def measure(weights: str, *_: object) -> dict[str, object]:
        if weights == "two":
            raise RuntimeError("CUDA out of memory")
        return {"workload": workload.name, "weights_bytes": 1}

    monkeypatch.setattr("sharelm.cost.measurement.measure", measure)
    monkeypatch.setattr("jobs.measure.open_model", lambda store, study, name: SimpleNamespace(weights=name))
    board = SimpleNamespace(span=SimpleNamespace(remote=lambda *span: None))
    have = Resources(False, cpus_per_worker=1, evaluation_cpus=1, cost_cpus=1, parallel_groups=1)
    context = Context(study, str(tmp_path), "data", Machine("cpu", "fp32", "a CPU"), have, board)
    steps = {
        model: Step("cost", "costs", f"cost-{model}", model, have.cost, Costing(trial.labels, model, workload))
        for model in ("one", "two", "three")
    }
    meter = CostMeter.__ray_metadata__.modified_class()
    meter.measure(context, steps["one"])
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        meter.measure(context, steps["two"])
    meter.measure(context, steps["three"])
    assert {manifest.step for manifest in store.manifests("costs", study.name)} == {"cost-one", "cost-three"}
