"""Checkpoints are written beside training: what goes on meanwhile, and what a kill or a full disk then leaves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import torch.distributed as dist

from sharelm.errors import StoreError
from sharelm.store import open_store
from sharelm.store.local import LocalObjects
from sharelm.study import expand
from sharelm.training.trial import train_trial
from tests.sharelm.distributed import on_ranks
from tests.sharelm.small import RandomCorpus, small_study
from tests.sharelm.test_training import CPU, SHARED

Put = Callable[[LocalObjects, str, bytes | Path], None]


def _train(store: str, before_put: Callable[[str], None], on_step: Callable[[int], None], **training: object) -> None:
    """Train with a local store that does something before it takes a file of a checkpoint."""
    put: Put = LocalObjects.put

    def slow_put(objects: LocalObjects, key: str, data: bytes | Path) -> None:
        if key.startswith("checkpoints/"):
            before_put(key)
        put(objects, key, data)

    LocalObjects.put = slow_put  # type: ignore[method-assign]  # in a process of its own
    study = small_study(**training)
    trial = expand(study).trials[SHARED]
    train_trial(study, trial, RandomCorpus(), "step", CPU, open_store(store), lambda _, step, *rest: on_step(step))


def _plain(store: str, workers: int) -> None:
    _train(store, lambda key: None, lambda step: None, zero_stage=1, workers=workers)


def _gated(store: str, log: str) -> None:
    """The first checkpoint is taken by the store only once training has done two more steps."""
    two_more = Event()

    def note(line: str) -> None:
        if dist.get_rank() == 0:
            with Path(log).open("a") as file:
                file.write(f"{line}\n")

    def before_put(key: str) -> None:
        step = int(key.split("/")[2][-8:])
        if step == 2 and dist.get_rank() == 0 and not two_more.wait(120):
            raise TimeoutError("training did not go on")
        older = len(open_store(store).manifests("checkpoints", "small"))
        note(f"put {step}, {older} committed")

    def on_step(step: int) -> None:
        note(f"step {step}")
        if step == 4:
            two_more.set()

    _train(store, before_put, on_step, zero_stage=1, workers=2)


def _losses(store: Path) -> list[float]:
    return open_store(str(store)).read("steps", "small")["loss_nats"].to_pylist()


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    on_ranks(2, _gated, str(tmp_path / "slow"), str(tmp_path / "log"))
    on_ranks(2, _plain, str(tmp_path / "fast"), 2)
    log = (tmp_path / "log").read_text().split("\n")[:-1]
    first = log.index("put 2, 0 committed")
    assert log[:first] == ["step 1", "step 2", "step 3", "step 4"]
    written = [line for line in log if line.startswith("put")]
    assert set(written[:3]) == {"put 2, 0 committed"}  # weights, rank 0's optimizer, progress
    assert set(written[3:]) == {"put 4, 1 committed"}  # the second waited for the first
    assert _losses(tmp_path / "slow") == _losses(tmp_path / "fast")
    assert open_store(str(tmp_path / "slow")).manifests("checkpoints", "small") == []


def _killed_before_the_commit(store: str) -> None:
    started = Event()

    def before_put(key: str) -> None:
        if "-00000004/" in key:
            started.set()
            time.sleep(600)

    def on_step(step: int) -> None:
        if step == 5:
            started.wait(60)
            os._exit(9)

    _train(store, before_put, on_step, zero_stage=1)


def test_a_kill_before_the_commit_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="exit code 9"):
        on_ranks(1, _killed_before_the_commit, str(tmp_path / "killed"))
    killed = open_store(str(tmp_path / "killed"))
    assert [m.step[-1] for m in killed.manifests("checkpoints", "small")] == ["2"]
    on_ranks(1, _plain, str(tmp_path / "killed"), 1)
    on_ranks(1, _plain, str(tmp_path / "whole"), 1)
    assert _losses(tmp_path / "killed") == _losses(tmp_path / "whole")
    (row,) = killed.read("trials", "small").to_pylist()
    assert (row["status"], row["resumes"]) == ("done", 1)


def _full(store: str, log: str) -> None:
    def before_put(key: str) -> None:
        if dist.get_rank() == 1:
            raise StoreError("no space left")

    def on_step(step: int) -> None:
        if dist.get_rank() == 0:
            Path(log).write_text(str(step))

    _train(store, before_put, on_step, zero_stage=1, workers=2)


def test_a_checkpoint_that_cannot_be_written_fails_the_trial_with_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"StoreError.*no space left"):
        on_ranks(2, _full, str(tmp_path / "store"), str(tmp_path / "log"))
    assert int((tmp_path / "log").read_text()) <= 4  # of 6: the next checkpoint waits for this one
    store = open_store(str(tmp_path / "store"))
    assert [store.manifests(table, "small") for table in ("checkpoints", "trials")] == [[], []]
