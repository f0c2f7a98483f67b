"""`[evaluation]`: the tasks that every trial is scored on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from sharelm.errors import nearest
from sharelm.study.node import Name, Node, OneOf, Positive, Tokens, Unit, unique
from sharelm.tasks import TASK_KINDS, TaskKind

OF_EVERY_KIND = ("name", "kind", "max_items", "shards")  # settings of a task


class Task(Node):
    """`[[evaluation.task]]`: one way of scoring a trial, on held-out text or on a file of items."""

    name: Name = Field(description="The name of the task in all tables and in the report.")
    kind: Annotated[str, OneOf(tuple(TASK_KINDS))] = Field(
        description="Loss on held-out documents (exactly one task is of the kind `bits_per_byte`); the last word of "
        "held-out passages; questions with choices from a file; questions from a file whose answers are generated; or "
        "a task of lm-evaluation-harness."
    )
    file: str | None = Field(
        default=None,
        description="For `multiple_choice` and `generation`, and required there: a JSONL file, one item a line (query, "
        "choices and gold; or query and answer), relative to the study file. For `harness`: the YAML file of a task of "
        "one's own.",
    )
    task: str | None = Field(
        default=None, description="For `harness`, in place of `file`: the name of a task or group that it brings."
    )
    data_files: dict[str, str] | None = Field(
        default=None,
        description="For `harness`: a JSONL file for each split (train, validation, test), relative to the study file, "
        "read in place of the dataset that the task names.",
    )
    metric: str | None = Field(
        default=None,
        description="For `harness`: the task's metric that is compared, `name` or `name,filter`. Not set: its first "
        "that is a mean over items.",
    )
    num_fewshot: Annotated[int, Field(ge=0), Unit("examples")] | None = Field(
        default=None, description="For `harness`: solved examples before each question. Not set: as the task says."
    )
    unsafe_code: bool | None = Field(
        default=None,
        description="For `harness`: true lets the metric of this task run code that a model wrote, on the cluster's "
        "nodes. Not set: such a task is refused.",
    )
    max_items: Annotated[int, Field(gt=0), Unit("items")] | None = Field(
        default=None, description="Score at most this many items. Not set: all."
    )
    shards: Positive = Field(default=1, description="Tasks of the cluster into which the scoring of a trial is cut.")
    max_new_tokens: Annotated[int, Field(gt=0), Unit("tokens")] | None = Field(
        default=None, description="For `generation`, and required there: the most tokens of an answer."
    )
    stop: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, description="For `generation`: an answer ends before the first of these texts."
    )

    @property
    def traits(self) -> TaskKind:
        """What is known of its kind."""
        return TASK_KINDS[self.kind]

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        if kind not in TASK_KINDS:
            raise ValueError(f"there is no such kind of task{nearest(kind, TASK_KINDS)}")
        return kind

    @model_validator(mode="after")
    def _settings_fit(self) -> Task:
        traits = self.traits
        for names in traits.needs:
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) != 1:
                said = f" gives {' and '.join(given)} but" if given else ""
                raise ValueError(f"task {self.name!r} is {self.kind}, which{said} needs {_one_of(names)}")
        takes = {*OF_EVERY_KIND, *traits.takes, *(name for names in traits.needs for name in names)}
        for name in type(self).model_fields:
            if name not in takes and getattr(self, name) is not None:
                raise ValueError(f"task {self.name!r} is {self.kind}, which takes no {name}")
        return self


def _one_of(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"exactly one of {', '.join(names)}"


class Evaluation(Node):
    """`[evaluation]`: the tasks, and how many tokens are scored at once."""

    task: list[Task] = Field(min_length=1, description="One or more; more may be added later.")
    tokens_per_batch: Tokens = Field(
        default=8192, description="The most tokens that are scored at once, padding included."
    )

    @field_validator("task")
    @classmethod
    def _names_differ(cls, tasks: list[Task]) -> list[Task]:
        unique([task.name for task in tasks], "task")
        if sum(task.traits.decides for task in tasks) != 1:
            deciding = " or ".join(kind.name for kind in TASK_KINDS.values() if kind.decides)
            raise ValueError(
                f"exactly one task of kind {deciding} is needed: the verdict rests on validation loss first"
            )
        return tasks

    @property
    def deciding(self) -> Task:
        """The task that the verdict rests on first."""
        return next(task for task in self.task if task.traits.decides)
