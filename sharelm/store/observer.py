"""Who is told how the store does: set once in a process, called after every operation of every store in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, Protocol, TypeVar

from sharelm.errors import StoreError

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Observer(Protocol):
    """Told by whichever thread uses the store; it must be quick and never raise."""

    def finished(self, operation: str, seconds: float, failed: bool) -> None:
        """An operation of `Objects` ended; absence is an answer, only a `StoreError` is a failure."""

    def retried(self) -> None:
        """A request was sent again, within an operation that goes on."""


_observer: Observer | None = None


def observe(observer: Observer | None) -> None:
    """Let this process's stores tell `observer` from now on; None: nobody."""
    global _observer
    _observer = observer


def retried() -> None:
    """Tell the observer that a request is sent again."""
    observer = _observer
    if observer is not None:
        observer.retried()


def observed(operation: Callable[Given, Result]) -> Callable[Given, Result]:
    """A method of `Objects` that tells the observer how long it took and whether it failed."""

    @wraps(operation)
    def timed(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        observer = _observer  # another thread may set it meanwhile
        if observer is None:
            return operation(*args, **kwargs)
        start, failed = time.perf_counter(), False
        try:
            return operation(*args, **kwargs)
        except StoreError:
            failed = True
            raise
        finally:
            observer.finished(operation.__name__, time.perf_counter() - start, failed)

    return timed
