"""What went wrong on the cluster, out of Ray's wrapping and in one sentence that says what to do."""

from __future__ import annotations

import errno
import os
import re

from ray.exceptions import NodeDiedError, OutOfDiskError, OutOfMemoryError, RayActorError, WorkerCrashedError

from sharelm.errors import ShareLMError, first_line
from sharelm.study.memory import ran_out

DIED = (RayActorError, NodeDiedError, WorkerCrashedError)

# What says so in messages: libraries raise plain RuntimeErrors, and Ray Train sends some errors as text.
DISK_FULL = (os.strerror(errno.ENOSPC), "PytorchStreamWriter failed writing", "unexpected pos")  # of torch.save too
NODE_MEMORY = ("running low on memory",)  # from Ray's own killer; the kernel's leaves no words
NODE_DIED = ("because its node has died",)
STALLED = ("Timed out waiting", "wait timeout after", "Watchdog caught collective", "health check has been hanging")
CUT_OFF = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")


def cause(error: BaseException) -> BaseException:
    """The exception a task or a training worker raised, out of Ray's wrapping.

    Of several workers' failures it is the one that explains the others: when one dies the rest lose their
    connection to it or wait in vain.
    """
    failures = getattr(error, "worker_failures", {}).values()  # of Ray Train
    if failures:
        return min(map(cause, failures), key=_consequence)
    # Ray's copy of an error is an instance of its class and carries the original as `cause`
    inner = getattr(error, "cause", None) or getattr(error, "health_check_failure", None)
    inner = inner or getattr(error, "controller_failure", None)
    if inner is None and not isinstance(error, ShareLMError):
        inner = error.__cause__
    return cause(inner) if isinstance(inner, BaseException) else error


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error)
    return any(word in text for word in words)


def _consequence(error: BaseException) -> int:
    """How far a worker's failure may be the consequence of another's."""
    if isinstance(error, ShareLMError):
        return 0
    if _says(error, CUT_OFF):
        return 4
    if _says(error, STALLED):
        return 3
    return 2 if isinstance(error, DIED) and not _says(error, NODE_MEMORY) else 1


def sentence(error: BaseException, stall_timeout_s: int | None = None) -> str:
    """What an error says and what to do, on one line and without a traceback.

    `stall_timeout_s` is how long the workers of a group wait for each other.
    """
    first = first_line(error)
    full = isinstance(error, OutOfDiskError) or _says(error, DISK_FULL)
    if isinstance(error, ShareLMError):
        return f"{error}; free some space there" if full else str(error)
    if full:
        where = getattr(error, "filename", None)
        return (
            f"a disk is full{f' ({where})' if where else ''}: free some space, or let TMPDIR of that node's Ray name "
            f"another disk ({first})"
        )
    if isinstance(error, OutOfMemoryError) or _says(error, NODE_MEMORY):
        return (
            f"{_node(error)} ran out of memory, and Ray killed what ran there: give training.sequences_per_pass or "
            "evaluation.tokens_per_batch less, or training.cpus_per_worker more, so that fewer run side by side"
        )
    if ran_out(error):
        return (
            "the model does not fit into memory here: give training.sequences_per_pass or evaluation.tokens_per_batch "
            f"less, or switch training.activation_checkpointing on ({first})"
        )
    if _says(error, STALLED):
        waited = f"{stall_timeout_s} s" if stall_timeout_s else "too long"
        return (
            f"a worker did nothing for {waited} while the others waited for it: look at its node (a stopped process, "
            "a GPU, disk or network that hangs), or raise training.stall_timeout_s"
        )
    if isinstance(error, NodeDiedError) or _says(error, NODE_DIED):
        return f"{_node(error)} died; start it again, or let the study run on those that are left"
    if isinstance(error, DIED):
        return (
            f"a process of the study was killed or crashed on {_node(error)}: look there whether the kernel ran out of "
            "memory (dmesg), and for the process's last words in Ray's logs"
        )
    if _says(error, CUT_OFF):
        return f"a worker lost its connection to another, whose process or node is gone ({first})"
    return first


def _node(error: BaseException) -> str:
    """The node that one of Ray's messages names."""
    address = re.search(r"(?:^\s*ip: |\(IP: )([^\s,)]+)", str(error), re.MULTILINE)
    return f"node {address[1]}" if address else "a node"
