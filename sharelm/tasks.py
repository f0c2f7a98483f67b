"""Every kind of evaluation task: what it reads, how it is asked, which metrics it gives and what guessing reaches.

A kind's items are made in `sharelm.evaluation.items`; everything else that depends on a kind asks its record here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharelm.metrics import METRICS, MetricKind


@dataclass(frozen=True)
class TaskKind:
    """What is known of every task of a kind."""

    name: str
    family: Literal["language_modeling", "question_answering"]
    metrics: tuple[MetricKind, ...]
    reads: Literal["documents", "file", "task"]  # held-out documents, a file of items, or lm-evaluation-harness's
    needs: tuple[tuple[str, ...], ...] = ()  # settings of `[[evaluation.task]]`: exactly one of each tuple is given
    takes: tuple[str, ...] = ()  # further settings that may be given
    generates: bool = False  # it asks for text, not for the likelihood of text
    by_domain: bool = False  # its metrics are given for each domain as well
    chance: float | None = None  # the share of items that guessing gets right; None where items differ in it

    @property
    def decides(self) -> bool:
        """Whether the verdict rests on it first: a study has exactly one such task."""
        return any(metric.decides for metric in self.metrics)

    @property
    def judged(self) -> bool:
        """Whether an item is right or wrong."""
        return any(metric.numerator == "correct" for metric in self.metrics)


TASK_KINDS = {
    kind.name: kind
    for kind in (
        TaskKind(
            "bits_per_byte",
            family="language_modeling",
            metrics=(METRICS["loss_nats_per_token"], METRICS["bits_per_byte"]),
            reads="documents",
            by_domain=True,
        ),
        TaskKind(
            "cloze",
            family="language_modeling",
            metrics=(METRICS["accuracy"],),
            reads="documents",
            chance=0.0,
        ),
        TaskKind(
            "multiple_choice",
            family="question_answering",
            metrics=(METRICS["accuracy"],),
            reads="file",
            needs=(("file",),),
        ),
        TaskKind(
            "generation",
            family="question_answering",
            metrics=(METRICS["accuracy"],),
            reads="file",
            needs=(("file",), ("max_new_tokens",)),
            takes=("stop",),
            generates=True,
            chance=0.0,
        ),
        TaskKind(
            "harness",
            family="question_answering",
            metrics=(METRICS["accuracy"],),
            reads="task",
            needs=(("file", "task"),),
            takes=("data_files", "metric", "num_fewshot", "unsafe_code"),
        ),
    )
}
