"""Text files and files of JSON objects, one a line, that a user wrote: read whole, or refused by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sharelm.errors import InputError


def read_text(path: Path) -> str:
    """The text of a file; raises `InputError` where it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} is not UTF-8: {error.reason} at byte {error.start}, in line {line}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def read_objects(path: Path, what: str, fields: str = "") -> list[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file, each with its line from 1; blank lines are none.

    `what` is what a message calls the objects, `fields` what it says of their fields. Raises `InputError` for a line
    that is no object, a value that is no text, and a file without any object.
    """
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):  # splitlines() would also cut at U+2028 in a text
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where} is not JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(row, dict):
            raise InputError(f"{where} is not a JSON object{fields}")
        for field, value in row.items():
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise InputError(f"{where}: {field} = {value!r} has half a surrogate pair, which is no text") from None
        found.append((number, row))
    if not found:
        raise InputError(f"{path} holds no {what}; a line is a JSON object{fields}")
    return found
