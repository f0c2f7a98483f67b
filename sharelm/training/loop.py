"""The training loop of one run: the steps that are left, their figures, and its checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch.distributed as dist

from sharelm.errors import DivergedError
from sharelm.store import Store
from sharelm.training import checkpoint
from sharelm.training.run import Figures, Run

OnStep = Callable[[str, int, float, float, float], None]


class Loop:
    """One run's steps and what they measured.

    `name` names the run's step in the store and so its checkpoints. The newest checkpoint is restored where there is
    one. `losses` (nats), `norms` (of gradients) and `speeds` (tokens per second) have one entry a finished step;
    `seconds` is the training time of all of them and `resumes` counts restored checkpoints.
    """

    def __init__(self, run: Run, store: Store, name: str) -> None:
        self.run, self.store, self.name = run, store, name
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.speeds: list[float] = []
        self.seconds, self.resumes = 0.0, 0
        self._last_read = 0.0  # when a step's figures were last read, by the clock of `time.perf_counter`
        self.checkpoints = checkpoint.Checkpoints(run.engine, store, run.study.name, name)
        self._restore()

    def _restore(self) -> None:
        """Load the newest checkpoint into the engine, and what it says had been done."""
        found = checkpoint.restore(self.run.engine, self.store, self.run.study.name, self.name)
        if found is not None:
            self.losses, self.norms, self.speeds = found.losses, found.gradient_norms, found.tokens_per_second
            self.seconds, self.resumes = found.training_seconds, found.resumes + 1
            self.run.halved_at = found.halved_at

    def train(self, on_step: OnStep) -> None:
        """Run the steps that are left and write checkpoints between them.

        `on_step` is called on rank 0 after every step with the trial's name, the step (from 1), its loss in nats, its
        tokens per second and its seconds. When this returns the last checkpoint is written. Raises `DivergedError`
        where a loss or a gradient norm is not finite.
        """
        try:
            self._train(on_step)
        finally:
            self.checkpoints.wait()

    def _train(self, on_step: OnStep) -> None:
        """Run the steps that are left.

        A step's figures are read after the next step is launched: a GPU would idle while its host waits for them.
        """
        training = self.run.training
        self._last_read = time.perf_counter()
        pending: Figures | None = None
        for step in range(len(self.losses), training.steps):
            self.checkpoints.check()
            figures = self.run.step(step)
            if pending is not None:
                self._note(pending, on_step)
            pending = figures
            if (step + 1) % training.checkpoint_steps == 0 or step + 1 == training.steps:
                self._note(pending, on_step)
                pending = None
                if step + 1 < training.steps:
                    self._checkpoint(step + 1)

    def _note(self, figures: Figures, on_step: OnStep) -> None:
        """Record the figures of the next step and report them; raises `DivergedError` where they are not finite."""
        loss, norm = figures.read()
        now = time.perf_counter()
        elapsed, self._last_read = now - self._last_read, now
        self.seconds += elapsed
        self.losses.append(loss)
        self.norms.append(norm)
        self.speeds.append(self.run.training.tokens_per_step / elapsed)
        if dist.get_rank() == 0:
            on_step(self.run.trial.name, len(self.losses), loss, self.speeds[-1], elapsed)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(loss, norm)

    def _diverged(self, loss: float, norm: float) -> DivergedError:
        """The error that says where the run diverged and what may help."""
        halvings = len(self.run.halved_at)
        return DivergedError(
            f"{self.run.trial.name} diverged at step {len(self.losses)}: loss {loss}, gradient norm {norm}; "
            f"a lower training.learning_rate than {self.run.training.learning_rate} may help"
            + (f" (it was halved {halvings} times)" if halvings else "")
        )

    def _checkpoint(self, step: int) -> None:
        """Checkpoint the run after its first `step` steps."""
        figures = self.losses, self.norms, self.speeds, self.seconds
        self.checkpoints.save(checkpoint.Progress(step, *figures, self.resumes, self.run.halved_at))
        self._last_read = time.perf_counter()

    def close(self) -> None:
        """Free the device's memory for the next trial in this process."""
        self.checkpoints.close()
        del self.checkpoints
        self.run.close()
