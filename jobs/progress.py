"""What the driver prints: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.status import Status

from jobs.board import Snapshot

PLAIN_EVERY_S = 10.0


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


class Progress:
    """Stages and trials as they go; a context manager, so that the terminal is left as it was."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}  # of every trial that is to be trained, by its name
        self._console = Console(file=sys.stderr)
        self._status: Status | None = self._console.status("starting") if self._console.is_terminal else None
        self._told = time.monotonic()
        self._started = 0.0

    def __enter__(self) -> Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def stage(self, text: str) -> None:
        """A new stage begins."""
        self._console.print(text, highlight=False)
        self._told = time.monotonic()

    def show(self, board: Snapshot, waiting: str) -> None:
        """What is going on: the running trial, its speed and the time left; else what is waited for."""
        text = self._training(board) or waiting
        if self._status:
            self._status.update(text)
        elif time.monotonic() - self._told >= PLAIN_EVERY_S:
            self.stage(text)

    def _training(self, board: Snapshot) -> str | None:
        running = {name: at for name, at in board.trials.items() if at.step < self.steps[name]}
        if not running:
            return None
        self._started = self._started or time.monotonic()
        name, at = max(running.items(), key=lambda item: item[1].step)
        done = sum(at.step for at in board.trials.values())
        left = (sum(self.steps.values()) - done) * (time.monotonic() - self._started) / max(1, done)
        finished = len(board.trials) - len(running)
        return (
            f"training: {finished} of {len(self.steps)} trials done; {name} step {at.step}/{self.steps[name]}, "
            f"loss {at.loss:.3f}, {at.tokens_per_second:,.0f} tokens/s, about {duration(left)} left"
        )
