"""What the driver prints: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status
from rich.text import Text

from sharelm.formats import duration

if TYPE_CHECKING:
    from jobs.board import Snapshot  # which imports Ray

PLAIN_EVERY_S = 10.0


class Progress:
    """Stages and trials as they go; a context manager, so that the terminal is left as it was."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}  # of everything that is to be trained now, by its name
        self._what = "trials"
        self._console = Console(file=sys.stderr)
        self._status: Status | None = self._console.status("starting") if self._console.is_terminal else None
        self._told = time.monotonic()
        self._started = 0.0
        self._first: dict[str, int] = {}  # steps that a trial had done when it was first seen
        self.lines: list[str] = []  # all that was told, with the time (UTC)
        self._noted = 0.0

    def __enter__(self) -> Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def expect(self, steps: dict[str, int], what: str = "trials") -> None:
        """These trials (or proxies) are to be trained, each for so many steps."""
        self._steps, self._what = steps, what
        self._started, self._first = 0.0, {}

    def stage(self, text: str) -> None:
        """A new stage begins, said on a line that stays."""
        self._note(text)
        self._console.print(Text(text), soft_wrap=True)
        if self._status:
            self._status.update(Text(text))
        self._told = time.monotonic()

    def show(self, text: str) -> None:
        """What is going on now: the live line's text, and a plain line every ten seconds."""
        if self._status:
            self._status.update(Text(text))
            if time.monotonic() - self._noted >= PLAIN_EVERY_S:
                self._note(text)
        elif time.monotonic() - self._told >= PLAIN_EVERY_S:
            self.stage(text)

    def _note(self, text: str) -> None:
        self._noted = time.monotonic()
        self.lines.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}")

    def left(self, board: Snapshot) -> int:
        """How many of the trials are not trained to their end."""
        return sum(name not in board.trials or board.trials[name].step < steps for name, steps in self._steps.items())

    def training(self, board: Snapshot) -> str:
        """How far training is: the trial that trains, its speed and the time left."""
        there = {name: at for name, at in board.trials.items() if name in self._steps}
        if not there:
            return "starting workers"
        self._started = self._started or time.monotonic()
        for name, at in there.items():
            self._first.setdefault(name, at.step)
        running = {name: at for name, at in there.items() if at.step < self._steps[name]}
        text = f"training: {len(there) - len(running)} of {len(self._steps)} {self._what} done"
        if not running:
            return text
        name, at = max(running.items(), key=lambda item: item[1].step)
        text += f"; {name} step {at.step}/{self._steps[name]}, loss {at.loss:.3f}, {at.tokens_per_second:,.0f} tokens/s"
        reached = sum(at.step for at in there.values())
        here = reached - sum(self._first.values())
        if here > 0:
            left = (sum(self._steps.values()) - reached) * (time.monotonic() - self._started) / here
            text += f", about {duration(round(left))} left"
        return text
