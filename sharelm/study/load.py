"""Reading a study: TOML in, a `Study` out, or one sentence that names file, field and value."""

from __future__ import annotations

import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from sharelm.errors import InputError, nearest
from sharelm.study.tree import Study

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")  # of a part of the tree, of a dataclass in it


def _fields_at(path: tuple[int | str, ...]) -> dict[str, Any]:
    """Names and annotations of the part of the tree that owns the last key of this path."""
    known = _fields(Study)
    for key in path[:-1]:
        if isinstance(key, int):
            continue
        annotation = known.get(str(key))
        inner = [found for found in map(_fields, (annotation, *get_args(annotation))) if found]
        if not inner:
            return {}
        known = inner[0]
    return known


def _fields(part: Any) -> dict[str, Any]:
    if isinstance(part, type) and issubclass(part, BaseModel):
        return {name: field.annotation for name, field in part.model_fields.items()}
    return {field.name: field.type for field in fields(part)} if is_dataclass(part) else {}


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for key in location:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _sentence(error: Any) -> str:
    location = error["loc"]
    field = _path(location)
    if error["type"] in _UNKNOWN:
        return f"{field} is not a known key{nearest(str(location[-1]), _fields_at(location))}"
    if error["type"] == "missing":
        return f"{field} is missing"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:] if message[:2].istitle() else message
    value = error.get("input")
    if isinstance(value, (str, int, float, bool)) or (isinstance(value, list) and len(str(value)) < 60):
        return f"{field} = {value!r}: {message}"
    return f"{field}: {message}" if field else message


def parse_study(text: str, origin: str) -> Study:
    """The study in this TOML text; `origin` is how messages call it."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{origin} is not TOML: {error}") from error
    return study_from_tree(tree, origin)


def study_from_tree(tree: dict[str, Any], origin: str) -> Study:
    """The study of plain values, as `Study.tree` gives them."""
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        # A misspelt key comes first: what is missing because of it follows from it.
        first, *others = sorted(error.errors(), key=lambda one: one["type"] not in _UNKNOWN)
        more = f" (and {len(others)} more)" if others else ""
        raise InputError(f"{origin}: {_sentence(first)}{more}") from None


def load_study(path: str | Path) -> Study:
    """The study in this file.

    Raises `InputError`, one sentence, when the file is missing, not TOML, or not a study.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return parse_study(text, str(path))


def name_of(argument: str) -> str:
    """The name of the study that a NAME or STUDY.toml argument means."""
    return load_study(argument).name if argument.endswith(".toml") or Path(argument).is_file() else argument
