"""Functions over texts in several processes; results and their order do not depend on the number of processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TypeVar

from sharelm.errors import ShareLMError

Result = TypeVar("Result")

_LEAST_CHARACTERS = 1 << 23  # for one process: a process takes a second or two to start
_BATCH_CHARACTERS = 1 << 20  # handed to a process at once
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """The number of cores that this process may use, by its affinity and its container's quota."""
    usable = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return usable
    return usable if quota == "max" else max(1, min(usable, int(quota) // int(period)))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _begin() -> None:
    """Set up a process: it uses one core, leaves Ctrl-C to its parent, and ends with its parent."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


@contextmanager
def workers(characters: int) -> Iterator[Executor | None]:
    """Processes for text of this length, at most one a core; None where they would not be faster.

    They are spawned, not forked, since readers of S3 and Arrow have threads by now. A script that calls this must
    therefore keep its own code under `if __name__ == "__main__"`.
    """
    count = min(cores(), characters // _LEAST_CHARACTERS)
    if count < 2:
        yield None
        return
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise ShareLMError(
            f"preparing data: one of {count} processes was killed, most likely for want of memory; "
            "give the machine more, or the container fewer CPUs, which means fewer processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def spread(
    function: Callable[[list[str]], list[Result]], texts: Iterable[str], pool: Executor | None
) -> Iterator[Result]:
    """The results of this module-level function for each text, in order; it is called with batches of texts."""
    batches = _batches(texts)
    return chain.from_iterable(map(function, batches) if pool is None else pool.map(function, batches))
