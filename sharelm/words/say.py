"""Words of a finding: the catalogue's template for its place and code, filled with its figures."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from sharelm.formats import NOTHING
from sharelm.tables.messages import Message, message
from sharelm.tables.rows import Finding, SharingWorthRow
from sharelm.words.formats import FORMATS

Entry = str | dict[str, str]  # a template, or one for each grammatical number


@cache
def catalogue() -> dict[str, dict[str, Entry]]:
    """Every template by place and code."""
    return tomllib.loads((Path(__file__).parent / "en.toml").read_text(encoding="utf-8"))


def say(place: str, code: str, figures: Mapping[str, Any]) -> str:
    """What the catalogue has for this code in this place, with these figures."""
    template = catalogue()[place][code]
    if isinstance(template, dict):
        template = template["one" if figures["count"] == 1 else "other"]
    return str(_FILL.vformat(template, (), figures))


def sentence(finding: Finding) -> str:
    """A finding as a reader is told it, its notes included."""
    return _whole(finding.message)


def why(row: SharingWorthRow) -> str | None:
    """Why a quantity, or an end of its interval, is not shown; None where nothing is missing."""
    return say("worth", row.code, row.figures) if row.code else None


def spoken(row: Finding | SharingWorthRow) -> dict[str, Any]:
    """A row as plain values with its figures unpacked, and its words beside them."""
    plain = asdict(row)
    del plain["figures_json"]
    words = {"sentence": sentence(row)} if isinstance(row, Finding) else {"reason": why(row)}
    return plain | {"figures": row.figures} | words


def lack(finding: Finding) -> str:
    """What a roll-out stage lacks, in brief."""
    return say("lacks", finding.code, finding.figures) if finding.code else sentence(finding)


def name_of(identifier: str, form: str = "name") -> str:
    """What an identifier is called in a sentence; `form` is the catalogue's table of such names."""
    return str(catalogue()[form][identifier])


def render(found: Message) -> str:
    """What the catalogue has for a message."""
    return say(found["kind"], found["code"], found["figures"])


def _whole(found: Message) -> str:
    return listed("sentences", [found, *found["figures"].get("notes", [])])


def listed(how: str, items: Sequence[Any]) -> str:
    """Items as the catalogue lists them: `a`, `a and b`, `a, b and c`."""
    pattern, texts, before = catalogue()["list"][how], [], False
    assert isinstance(pattern, dict)
    for item in items:
        if _is_message(item):
            again = f"{item['kind']}_again"
            repeats = item["code"] in catalogue().get(again, {})
            texts.append(render(message(again, item["code"], **item["figures"]) if repeats and before else item))
            before = before or repeats
        else:
            texts.append(str(item))
    text = texts[0]
    for number, last in enumerate(texts[1:], 2):
        text = _FILL.format(pattern["end" if number == len(texts) else "middle"], first=text, last=last)
    return text


def _is_message(value: Any) -> TypeGuard[Message]:
    return isinstance(value, dict) and "code" in value


class _Fill(string.Formatter):
    """Templates whose slots' formats are those of `formats`, of lists, of names and of findings inside."""

    def format_field(self, value: Any, spec: str) -> str:
        """A slot's value in its formats, one after the other."""
        for step in spec.split("|") if spec else ():
            value = _formatted(value, *step.split(" "))
        return render(value) if _is_message(value) else NOTHING if value is None else str(value)


def _formatted(value: Any, how: str, *arguments: str) -> Any:
    if how in catalogue()["list"]:
        return listed(how, value)
    if how == "sentence":
        return _whole(value)
    if how == "name":
        return name_of(value, *arguments)
    if how == "each":
        return [_formatted(item, *arguments) for item in value]
    if how == "start":
        return str(value)[:1].upper() + str(value)[1:]
    return NOTHING if value is None else FORMATS[how](value, *arguments)


_FILL = _Fill()
