"""Whole studies on a real Ray: to a report, again, grown, on S3, and through whatever may go wrong on the way."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pytest

from sharelm.store import open_store
from sharelm.store.studies import latest_study
from sharelm.tables import TABLES
from tests.conftest import Cluster, user_environment
from tests.jobs.studies import (
    losses,
    manifests,
    plant_checkpoint,
    run,
    start,
    started,
    train_without_ray,
    until,
    write_study,
)
from tests.sharelm.distributed import on_ranks
from tests.sharelm.small import TREE

pytestmark = pytest.mark.slow

STEPS = 120
LONG = {"tokens": 16 * 8 * STEPS, "checkpoint_steps": 20, "cpus_per_worker": 1}
AUTO = {**LONG, "zero_stage": "auto", "cpus_per_worker": 2}
TRIALS = ["cycle.s0", "independent-L2.s0", "independent.s0"]
NOBODY = {"RAY_ADDRESS": "127.0.0.1:9"}  # a Ray that is not there


def trained(store: Path | str) -> list[str]:
    return sorted(open_store(str(store)).read("trials", "small")["trial"].to_pylist())


def without_checkpoints(found: dict[str, bytes]) -> dict[str, bytes]:
    return {path: content for path, content in found.items() if not path.startswith("checkpoints/")}


def on_a_terminal(arguments: list[str], **environment: str) -> tuple[int, str]:
    """Run this with a terminal for its output: its exit code and everything the terminal was sent."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(arguments, env=user_environment(**environment), stdout=theirs, stderr=theirs)
    os.close(theirs)
    sent = b""
    while True:
        try:
            sent += (part := os.read(ours, 1 << 16))
        except OSError:  # Linux says so when the last writer is gone
            break
        if not part:
            break
    os.close(ours)
    return process.wait(timeout=60), sent.decode()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, inside: dict[str, str]) -> SimpleNamespace:
    """The small study, run on a terminal."""
    path = write_study(tmp_path_factory.mktemp("finished"), training=AUTO)
    store = path.parent / "store"
    command = [sys.executable, "-m", "cluster.cli", "run", str(path), "--store", str(store)]
    code, screen = on_a_terminal(command, **{**inside, "TERM": "xterm"})
    assert code == 0, screen
    return SimpleNamespace(path=path, store=store, screen=screen, manifests=manifests(store))


def test_every_table_has_its_rows(finished: SimpleNamespace) -> None:
    store = open_store(str(finished.store))
    files = {table: store.files(table, "small") for table in TABLES}
    assert files.pop("distances") == []  # no arm is tied softly
    assert files.pop("tunings") == []  # nor is a learning rate tuned
    assert (files.pop("history"), files.pop("baselines")) == ([], [])  # nor is it a night
    counts = {table: duckdb.read_parquet(found).count("*").fetchall()[0][0] for table, found in files.items()}
    documents = duckdb.read_parquet(store.files("scores", "small")).aggregate("count(distinct document)").fetchall()
    assert counts.pop("comparisons") >= 2  # an axis each, by domain
    assert counts.pop("verdicts") == 2 + 3 + 3  # axes, KPIs, stages
    assert counts.pop("sharing_worth") > 0
    assert counts == {"trials": 3, "steps": 3 * STEPS, "scores": 3 * documents[0][0], "costs": 3}
    assert trained(finished.store) == TRIALS
    assert not [path for path in finished.manifests if path.startswith("checkpoints/")]


def test_the_least_zero_stage_that_fits_is_said_and_is_what_trials_have(finished: SimpleNamespace) -> None:
    assert "ZeRO stage 0: the largest arm, independent, needs " in finished.screen
    rows = open_store(str(finished.store)).read("trials", "small")["resolved_json"].to_pylist()
    assert [json.loads(row)["training"]["zero_stage"] for row in rows] == [0] * len(TRIALS)


def test_the_report_is_where_the_last_line_says(finished: SimpleNamespace) -> None:
    lines = finished.screen.strip().splitlines()
    page = Path(lines[-1].removeprefix("report: "))
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert re.fullmatch(r"time: (\d+ min )?[\d.]+ s in all; training .*; everything else \d+%", lines[-2])


def test_a_terminal_shows_one_live_line(finished: SimpleNamespace) -> None:
    shown = finished.screen
    assert re.search(r"training: \d of 3 trials done; \S+ step \d+/120, loss \d\.\d{3}, [\d,]+ tokens/s", shown)
    for words in ("starting Ray", "starting workers", "training: ", "evaluating: ", "measuring cost: ", "comparing"):
        live = len(re.findall(f"[\u2800-\u28ff] {words}", shown))  # after the spinner
        assert live == shown.count(words) > 0, words
    assert "core_worker" not in shown  # what Ray logs is no part of the screen


def test_again_nothing_is_done_and_no_ray_is_needed(finished: SimpleNamespace) -> None:
    again = run(finished.path, finished.store, **NOBODY)
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing to do, study 'small' was finished on 20" in again.stdout
    assert manifests(finished.store) == finished.manifests


def test_a_grown_study_does_only_what_is_new(finished: SimpleNamespace, inside: dict[str, str]) -> None:
    store, before = finished.store, finished.manifests
    variants = [*TREE["variant"], {"name": "albert", "scheme": "albert"}]
    path = write_study(finished.path.parent, "variant.toml", training=AUTO, variant=variants)
    assert run(path, store, **inside).returncode == 0
    more = sorted([*TRIALS, "albert.s0", "independent-L1.s0"])
    assert trained(store) == more
    after = manifests(store)
    assert {name: after[name] for name in before} == before
    assert len([name for name in after.keys() - before.keys() if name.startswith(("scores/", "costs/"))]) == 4  # 2 arms

    questions = {"name": "q", "kind": "multiple_choice", "file": "questions.jsonl"}
    evaluation = {"task": [*TREE["evaluation"]["task"], questions]}
    about = {"name": "small", "seeds": [0, 1]}
    path = write_study(
        finished.path.parent, "seed.toml", study=about, training=AUTO, variant=variants, evaluation=evaluation
    )
    done = run(path, store, **inside)
    assert done.returncode == 0, done.stderr
    assert trained(store) == sorted([*more, *(name.replace(".s0", ".s1") for name in more)])
    last = manifests(store)
    assert {name: last[name] for name in after} == after
    added = [name.split("/")[0] for name in last.keys() - after.keys()]
    assert {table: added.count(table) for table in ("trials", "scores", "costs")} == {
        "trials": 5,
        "scores": 5 + 10,  # the new seed on the old task, every trial on the new one
        "costs": 5,  # a repeat of the measurement
    }


def test_a_killed_worker_resumes_to_the_same_bits(
    finished: SimpleNamespace, cluster: Cluster, inside: dict[str, str], tmp_path: Path
) -> None:
    path, store = write_study(tmp_path, training={**LONG, "workers": 2}), tmp_path / "store"
    driver = start(path, store, **inside)
    trial = until(lambda: list(store.glob("trials/*/*/manifest.json")), driver)[0].parent.name
    checkpoints = "checkpoints/*/*/manifest.json"  # the next trial's: this one's last may still be there
    until(lambda: [path for path in store.glob(checkpoints) if not path.parent.name.startswith(trial)], driver)
    first = {name: content for name, content in manifests(store).items() if name.startswith("trials/")}
    workers = started(cluster.pid, "TrainWorker")
    assert len(workers) == 2
    workers[-1].kill()
    out, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, out + err

    rows = {row["trial"]: row for row in open_store(str(store)).read("trials", "small").to_pylist()}
    assert {name: row["resumes"] for name, row in rows.items()} == {
        "independent.s0": 0,
        "cycle.s0": 1,
        "independent-L2.s0": 0,
    }
    assert {name: manifests(store)[name] for name in first} == first
    on_ranks(2, train_without_ray, path, str(store), 1, str(tmp_path / "undisturbed"))
    assert losses(store, "cycle.s0") == losses(tmp_path / "undisturbed", "cycle.s0")
    for trial in TRIALS:  # later steps amplify how two workers round
        one, two = losses(finished.store, trial), losses(store, trial)
        np.testing.assert_allclose(one[:10], two[:10], atol=1e-5)
        assert len(one) == len(two) == STEPS


def test_a_killed_driver_is_carried_on_by_two_at_once(inside: dict[str, str], tmp_path: Path) -> None:
    path, store = write_study(tmp_path, training=LONG), tmp_path / "store"
    driver = start(path, store, **inside)
    until(lambda: list(store.glob("trials/*/*/manifest.json")), driver)
    driver.kill()
    driver.communicate()
    before = without_checkpoints(manifests(store))
    assert not [name for name in before if name.startswith("reports/")]

    both = [start(path, store, **inside) for _ in range(2)]
    said = [one.communicate(timeout=400) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    after = manifests(store)
    assert {name: after[name] for name in before} == before
    assert trained(store) == TRIALS
    assert all(len(losses(store, trial)) == STEPS for trial in TRIALS)
    scores = open_store(str(store)).read("scores", "small").to_pylist()
    keys = [(row["trial"], row["task"], row["document"], row["item"]) for row in scores]
    assert len(keys) == len(set(keys))
    for table in ("reports", "verdicts", "comparisons"):
        assert len([name for name in after if name.startswith(f"{table}/")]) == 1
    assert len({out.splitlines()[-1] for out, _ in said}) == 1  # the same report


def test_one_trial_diverges_and_one_cannot_resume(inside: dict[str, str], tmp_path: Path) -> None:
    training = {"max_failures": 0, "cpus_per_worker": 2}
    path, store = write_study(tmp_path, training=training), tmp_path / "store"
    on_ranks(1, plant_checkpoint, path, 1, str(store), float("nan"))
    (kept,) = manifests(store)
    on_ranks(1, plant_checkpoint, path, 2, str(store), 0.0)
    (planted,) = manifests(store).keys() - {kept}
    altered = next((store / planted).parent.glob("*progress.json"))
    altered.write_bytes(altered.read_bytes().replace(b"5.0", b"4.0"))

    done = run(path, store, **inside)
    assert (done.returncode, done.stdout) == (1, "")
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("error: not finished: trial independent-L2.s0: ")
    assert f"{altered} was altered" in sentence
    assert "trial independent-L2.s0 is tried again: " in done.stderr  # its group had not begun with it
    assert "Traceback" not in done.stderr
    rows = {row["trial"]: row for row in open_store(str(store)).read("trials", "small").to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {"independent.s0": "done", "cycle.s0": "diverged"}
    assert "cycle.s0 diverged at step 2: loss nan" in rows["cycle.s0"]["error"]
    assert {row["trial"] for row in open_store(str(store)).read("scores", "small").to_pylist()} == {"independent.s0"}
    assert {row["trial"] for row in open_store(str(store)).read("costs", "small").to_pylist()} == {"independent.s0"}
    (report,) = open_store(str(store)).manifests("reports", "small")
    assert sentence.endswith(open_store(str(store)).address(report, "report.html"))
    (missing,) = report.facts["missing"]
    assert missing["step"] == "trial independent-L2.s0"
    page = open_store(str(store)).read_bytes(report, "report.md").decode()
    assert "The trial independent-L2.s0 failed, and what rests on it is missing: " in page

    (store / planted).unlink()  # what the sentence named is thrown away
    done = run(path, store, **inside)
    assert done.returncode == 0, done.stderr
    assert "diverged" in done.stdout
    assert len(open_store(str(store)).manifests("reports", "small")) == 2
    outcomes = {row["outcome"] for row in open_store(str(store)).read("verdicts", "small").to_pylist()}
    assert not outcomes & {"better", "not_worse", "met", "supported"}, outcomes
    assert trained(store) == TRIALS
    assert {row["trial"] for row in open_store(str(store)).read("scores", "small").to_pylist()} == {
        "independent.s0",
        "independent-L2.s0",
    }
    assert kept in manifests(store)  # the last checkpoint of the trial that diverged


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


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Call it with a study's changes and the environment: the sentence it is refused with; nothing was trained."""

    def call(environment: dict[str, str], **changes: Any) -> str:
        store = tmp_path / "store"
        done = run(write_study(tmp_path, **changes), store, **environment)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        *stages, sentence = done.stderr.splitlines()
        assert [stage for stage in stages if " gcs_client.cc:" not in stage] in ([], ["preparing data"])  # Ray's own
        assert latest_study(open_store(str(store)), "small") is None
        return sentence

    return call


def test_a_cluster_that_cannot_hold_the_study(refused: Any, inside: dict[str, str]) -> None:
    assert "training.workers = 4 but the cluster has 2 CPUs" in refused(inside, training={"workers": 4})
    assert "training.device = 'gpu' but the cluster has no GPU" in refused(inside, training={"device": "gpu"})
    much = {"zero_stage": "auto", "tokens_per_step": 1 << 26, "tokens": 1 << 28}
    said = refused(inside, training=much)
    assert "training.zero_stage = 'auto': no stage fits; " in said
    assert "the largest part is activations, " in said
    assert "set a smaller training.sequences_per_pass" in said


def test_a_ray_that_cannot_be_joined(refused: Any, inside: dict[str, str], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("wrong-token" * 4)
    sentence = refused({**inside, "RAY_AUTH_TOKEN_PATH": str(token)})
    assert "if it wants a token" in sentence
    assert "wrong-token" not in sentence


@pytest.mark.s3
def test_a_study_on_s3_with_a_ray_of_its_own(s3_uri: str, tmp_path: Path) -> None:
    path = write_study(tmp_path)
    server = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "SHARELM_CACHE"))}
    process = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "run", str(path), "--store", s3_uri, "--json"],
        cwd=tmp_path,
        env=user_environment(**server),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert process.returncode == 0, process.stderr
    (line,) = process.stdout.splitlines()
    assert json.loads(line)["store"] == s3_uri
    store = open_store(s3_uri)
    unused = {"distances", "tunings", "history", "baselines"}  # nothing tied softly, no rate tuned, no night
    assert all(store.read(table, "small").num_rows for table in TABLES if table not in unused)
    again = run(path, s3_uri, **server, **NOBODY)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines()[-1].startswith(f"report: {s3_uri}/reports/study=small/")
