"""What every part of a study is made of: the frozen base, and the kinds of field that several parts have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Unit:
    """The unit of a setting, as `docs/study.md` says it; pydantic passes it over."""

    name: str


@dataclass(frozen=True)
class OneOf:
    """The words that a validator lets pass, as `docs/study.md` lists them; pydantic passes it over."""

    words: tuple[str, ...]


def _slug(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise ValueError("a name is letters, digits, '.', '_' and '-', at most 63, and starts with a letter or digit")
    return name


def unique(values: list[str], what: str) -> None:
    """Raise `ValueError` for a value that is there twice."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{what} {value!r} is there {values.count(value)} times; names must differ")


Name = Annotated[str, AfterValidator(_slug)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Tokens = Annotated[int, Field(gt=0), Unit("tokens")]
Ratio = Annotated[float, Field(gt=0), Unit("ratio")]


class Node(BaseModel):
    """Base of every part of a study: frozen, and no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)
