"""Multiple-choice files: one JSON object a line with `query`, `choices` and `gold`, as llm-foundry writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharelm.errors import InputError


@dataclass(frozen=True)
class Question:
    """A query, what may follow it, and the index of what should; `line` counts from 1."""

    line: int
    query: str
    choices: tuple[str, ...]
    gold: int


def read_questions(path: Path) -> list[Question]:
    """The questions of this file.

    Raises `InputError` naming file, line and field for a file that is missing, empty, not UTF-8 or not such lines.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would also cut at U+2028 inside a text
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    questions = [
        _question(f"{path} line {number}", number, line) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not questions:
        raise InputError(f"{path} holds no questions; a line is a JSON object with query, choices and gold")
    return questions


def _question(where: str, number: int, line: str) -> Question:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(row, dict):
        raise InputError(f"{where} is not a JSON object with query, choices and gold")
    for field in ("query", "choices", "gold"):
        if field not in row:
            raise InputError(f"{where}: {field} is missing")
    query, choices, gold = row["query"], row["choices"], row["gold"]
    if not isinstance(query, str):
        raise InputError(f"{where}: query = {query!r} is not a string")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise InputError(f"{where}: choices = {choices!r} is not a list of two or more texts")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise InputError(
            f"{where}: gold = {gold!r} is not an index of the {len(choices)} choices (0 to {len(choices) - 1})"
        )
    return Question(number, query, tuple(choices), gold)
