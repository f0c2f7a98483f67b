"""What went wrong, in one sentence: libraries' own errors where they can be had, Ray's as it sent them elsewhere."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

from jobs.failures import cause, sentence
from sharelm.errors import InputError, IntegrityError, StoreError
from sharelm.store.local import LocalObjects


def _raised(error: Exception) -> ray.exceptions.RayTaskError:
    return ray.exceptions.RayTaskError("task", "traceback\nof many\nlines", error)


def _of_workers(*errors: Exception) -> ray.exceptions.RayTaskError:
    return _raised(WorkerGroupError("long\ntext", dict(enumerate(errors))))


class Died(ray.exceptions.ActorDiedError):
    """Ray's, with a text of Ray's."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.error_msg = text


KILLED = Died(
    "The actor died unexpectedly before finishing this task.\n\tclass_name: RayTrainWorker\n\tip: 10.0.0.7\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
)
NODE = Died(
    "The actor died unexpectedly before finishing.\n\tip: 10.0.0.7\nThe actor died because its node has died. "
    "Node Id: 5dd3\n\tthe actor's node was terminated unexpectedly: health check failed"
)
MEMORY = ray.exceptions.OutOfMemoryError(
    "2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: 5dd3) was "
    "2.57GB used / 23.54GB limit\nOOM kill reason"
)
CUT_OFF = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.7]:34221")
WAITED = RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 9000ms for recv operation")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (_raised(InputError("bad")), "bad"),
        (_raised(InputError("bad")).as_instanceof_cause(), "bad"),
        (_of_workers(IntegrityError("x was altered")), "x was altered"),
        (_of_workers(_raised(StoreError("gone"))), "gone"),
        (_raised(ValueError("one\ntwo")), "ValueError: one"),
        (_of_workers(KILLED), "a process of the study was killed or crashed on node 10.0.0.7: "),
        (_of_workers(ray.exceptions.ActorDiedError()), "a process of the study was killed or crashed on a node: "),
        (ray.exceptions.WorkerCrashedError(), "a process of the study was killed or crashed on a node: "),
        (_of_workers(NODE), "node 10.0.0.7 died; "),
        (ray.exceptions.NodeDiedError("it is gone"), "a node died; "),
        (MEMORY, "node 10.0.0.7 ran out of memory, and Ray killed what ran there: "),
        (_of_workers(WAITED), "a worker did nothing for 9 s "),
        (
            _of_workers(WorkerHealthCheckTimeoutError("A worker health check has been hanging for 9.3 s")),
            "a worker did ",
        ),
        (_raised(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")), "the model does not fit"),
        (ray.exceptions.OutOfDiskError("x"), "a disk is full: free some space, "),
        (_of_workers(CUT_OFF), "a worker lost its connection to another, "),
    ],
)
def test_rays_wrapping_and_tracebacks_are_left_behind(error: Exception, said: str) -> None:
    told = sentence(cause(error), 9)
    assert told.startswith(said)
    assert "\n" not in told
    assert "traceback" not in told


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ([CUT_OFF, WorkerHealthCheckFailedError("A worker health check failed.", failure=KILLED)], "a process of"),
        ([CUT_OFF, WorkerHealthCheckFailedError("A worker health check failed.", failure=NODE)], "node 10.0.0.7 died"),
        ([WAITED, KILLED], "a process of the study was killed"),
        ([CUT_OFF, WAITED], "a worker did nothing for"),
        ([KILLED, ValueError("bad shape")], "ValueError: bad shape"),
        ([CUT_OFF, MEMORY, KILLED], "node 10.0.0.7 ran out of memory"),
        ([KILLED, CUT_OFF, StoreError("store x cannot be written")], "store x cannot be written"),
    ],
)
def test_of_several_workers_failures_the_one_that_explains_the_others_is_told(
    failures: list[Exception], said: str
) -> None:
    assert sentence(cause(_of_workers(*failures))).startswith(said)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A file on a disk that is full. It is a link: whoever writes by renaming must not replace the device."""
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    return path


def _store(full: Path) -> None:
    with LocalObjects(full.parent)._failures("written"):
        _file(full)


def _file(full: Path) -> None:
    with full.open("wb", buffering=0) as file:
        file.write(b"x")


FULL: dict[str, Callable[[Path], object]] = {
    "store": _store,
    "file": _file,
    "checkpoint": lambda full: torch.save({"x": torch.zeros(1 << 16)}, full),
}


@pytest.mark.parametrize("writer", FULL)
def test_a_disk_that_is_full_is_told_as_such(writer: str, full: Path) -> None:
    with pytest.raises((OSError, RuntimeError, StoreError)) as raised:
        FULL[writer](full)
    assert full.is_symlink()
    told = sentence(cause(_of_workers(_raised(raised.value))))
    assert "free some space" in told
    assert "\n" not in told
    assert told.startswith(f"store {full.parent} cannot be written" if writer == "store" else "a disk is full")


def test_a_quota_is_no_full_disk() -> None:
    assert "full" not in sentence(OSError(errno.EACCES, "Permission denied", "/x"))


@pytest.mark.parametrize(
    "take", [lambda: torch.empty(1 << 56, dtype=torch.uint8), lambda: np.empty(1 << 56, dtype=np.uint8)]
)
def test_memory_that_is_not_there_is_told_as_such(take: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        take()
    told = sentence(cause(_raised(raised.value)))
    assert told.startswith("the model does not fit into memory here: ")
    assert "training.sequences_per_pass" in told
