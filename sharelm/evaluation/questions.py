"""Files of questions, one JSON object a line.

Multiple choice: `query`, `choices` and `gold`, as llm-foundry writes them. Generation: `query` and `answer`, one text
or a list of texts that are all right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sharelm.errors import InputError
from sharelm.jsonl import read_objects

Read = TypeVar("Read")


@dataclass(frozen=True)
class Question:
    """A query, what may follow it, and the index of what should; `line` counts from 1."""

    line: int
    query: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class OpenQuestion:
    """A query and every answer to it that is right; `line` counts from 1."""

    line: int
    query: str
    accepted: tuple[str, ...]


def read_questions(path: Path) -> list[Question]:
    """The multiple-choice questions of this file.

    Raises `InputError` naming file, line and field for a file that is missing, empty, not UTF-8 or not such lines.
    """
    return _read(path, ("query", "choices", "gold"), _question)


def read_answers(path: Path) -> list[OpenQuestion]:
    """The questions of this file that are answered with a text.

    Raises `InputError` naming file, line and field for a file that is missing, empty, not UTF-8 or not such lines.
    """
    return _read(path, ("query", "answer"), _open_question)


def _read(path: Path, fields: tuple[str, ...], made: Callable[[str, int, dict[str, Any]], Read]) -> list[Read]:
    names = f" with {', '.join(fields[:-1])} and {fields[-1]}"
    questions = []
    for number, row in read_objects(path, "questions", names):
        where = f"{path} line {number}"
        for field in fields:
            if field not in row:
                raise InputError(f"{where}: {field} is missing")
        if not isinstance(row["query"], str):
            raise InputError(f"{where}: query = {row['query']!r} is not a string")
        questions.append(made(where, number, row))
    return questions


def _question(where: str, number: int, row: dict[str, Any]) -> Question:
    query, choices, gold = row["query"], row["choices"], row["gold"]
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise InputError(f"{where}: choices = {choices!r} is not a list of two or more texts")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise InputError(
            f"{where}: gold = {gold!r} is not an index of the {len(choices)} choices (0 to {len(choices) - 1})"
        )
    return Question(number, query, tuple(choices), gold)


def _open_question(where: str, number: int, row: dict[str, Any]) -> OpenQuestion:
    answer = row["answer"]
    accepted = answer if isinstance(answer, list) else [answer]
    if not accepted or not all(isinstance(text, str) and text.strip() for text in accepted):
        raise InputError(f"{where}: answer = {answer!r} is not a text or a list of texts")
    return OpenQuestion(number, row["query"], tuple(accepted))
