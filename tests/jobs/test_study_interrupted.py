"""Studies on a real Ray that are killed, go wrong or cannot start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharelm.store import open_store
from sharelm.store.studies import latest_study
from tests.jobs.studies import (
    LONG,
    STEPS,
    TRIALS,
    losses,
    manifests,
    plant_checkpoint,
    run,
    start,
    trained,
    until,
    write_study,
)
from tests.sharelm.distributed import on_ranks

pytestmark = pytest.mark.slow


def without_checkpoints(found: dict[str, bytes]) -> dict[str, bytes]:
    return {path: content for path, content in found.items() if not path.startswith("checkpoints/")}


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
    assert sentence.startswith("error: not finished: ")
    assert f"{altered} was altered" in sentence
    assert "Traceback" not in done.stderr
    rows = {row["trial"]: row for row in open_store(str(store)).read("trials", "small").to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {"independent.s0": "done", "cycle.s0": "diverged"}
    assert "cycle.s0 diverged at step 2: loss nan" in rows["cycle.s0"]["error"]
    assert not [name for name in manifests(store) if name.startswith(("scores/", "reports/"))]

    (store / planted).unlink()  # what the sentence named is thrown away
    done = run(path, store, **inside)
    assert done.returncode == 0, done.stderr
    assert "diverged" in done.stdout
    outcomes = {row["outcome"] for row in open_store(str(store)).read("verdicts", "small").to_pylist()}
    assert not outcomes & {"better", "not_worse", "met", "supported"}, outcomes
    assert trained(store) == TRIALS
    assert {row["trial"] for row in open_store(str(store)).read("scores", "small").to_pylist()} == {
        "independent.s0",
        "independent-L2.s0",
    }
    assert kept in manifests(store)  # the last checkpoint of the trial that diverged


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
