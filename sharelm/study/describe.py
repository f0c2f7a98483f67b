"""`python -m sharelm.study.describe`: the page `docs/study.md`, from the study's own fields."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sharelm.sharing import Atoms, Embedding, LowRank, SoftTying
from sharelm.study.node import Name, OneOf, Unit
from sharelm.study.tree import EXECUTION_SETTINGS, Study

_HEAD = """\
# The study file

<!-- Written by `python -m sharelm.study.describe > docs/study.md`; a test fails when it is out of date. -->

Every setting of a study, table by table. The file is TOML; a key that is not listed here is refused. `[table]` stands
once, `[[table]]` as often as there are entries. [examples/](../examples/) has whole studies, and `sharelm plan STUDY`
shows what one would do. Other pages explain more: [data.md](data.md), [sharing.md](sharing.md), [twins.md](twins.md),
[training.md](training.md), [evaluation.md](evaluation.md), [statistics.md](statistics.md).

A *name* is 1 to 63 letters, digits, `.`, `_` and `-`, and starts with a letter or digit. The *kinds* are `"attention"`
and `"feed_forward"`. A setting whose default is *required* must be given; one whose default is *not set* may be left
out. A table below an entry may be written inside it: `[variant.low_rank]` as `low_rank = { attention = 8 }`.

A setting with a * says how the work is carried out, not what is computed: it may change between runs of a study and
repeats nothing. Everything else is fixed once a study has run, but for what may be added: variants, seeds, axes, rungs,
tasks and workloads.
"""

# The degrees are plain dataclasses of `sharelm.sharing`, which knows no pydantic field.
_DEGREES: dict[tuple[type, str], str] = {
    (LowRank, "attention"): "Rank of the deltas of attention matrices, 0 or more; 0: none. At most the smaller side of "
    "a matrix is used.",
    (LowRank, "feed_forward"): "The same for feed-forward matrices.",
    (LowRank, "attention_scale"): "The factor of attention deltas; not 0.",
    (LowRank, "feed_forward_scale"): "The factor of feed-forward deltas; not 0.",
    (LowRank, "start"): "`zero`: B starts at zero. `svd`: the delta starts as the truncated SVD of the difference "
    "between the depth's own independent draw and the block that it reads.",
    (Atoms, "attention"): "`learned`: attention matrices are weighted sums of the stored blocks, and the weights are "
    "trained. They start with 1 at the block of the schedule and 0 elsewhere. `fixed`: they stay there.",
    (Atoms, "feed_forward"): "The same for feed-forward matrices.",
    (Embedding, "head"): "`tied`: the head is the transpose of the embedding. `untied`: it has weights of its own.",
    (Embedding, "width"): "Width E of the embedding, below `model.width`; a matrix [`model.width`, E] follows it. Not "
    "set: `model.width`, and no such matrix.",
    (SoftTying, "weight"): "Weight of the penalty, 0 or more, when training starts.",
    (SoftTying, "final_weight"): "Weight of the penalty, 0 or more, when training ends; it changes in a straight line. "
    "Not set: it stays `weight`.",
}


@dataclass(frozen=True)
class Setting:
    """One row of the page."""

    name: str
    type: str
    default: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """One table of the study file: how it is written (several where they have the same keys), and its settings."""

    titles: tuple[str, ...]
    about: str
    settings: tuple[Setting, ...]


def sections() -> list[Section]:
    """Every table of a study, in the order of the file."""
    found: dict[type, Section] = {}
    for title, part, note in _parts(Study, ""):
        same = found.get(part)
        titles = (*(same.titles if same else ()), title)
        path = title.strip("[]")
        about = same.about if same else " ".join(filter(None, (_about(part), note)))
        found[part] = Section(titles, about, tuple(_settings(part, path)))
    return list(found.values())


def _parts(part: type, path: str) -> Iterator[tuple[str, type, str]]:
    """The parts of a study below this one, each with how its table is written and what else is to be said of it."""
    for name, (annotation, field) in _fields(part).items():
        inner, many = _inner(annotation)
        if inner is None:
            continue
        below = f"{path}.{name}" if path else name
        optional = "" if field.is_required() or is_dataclass(inner) else "The table may be left out."
        said = " ".join(filter(None, (field.description, optional)))
        yield (f"[[{below}]]" if many else f"[{below}]"), inner, said
        yield from _parts(inner, below)


def _fields(part: type) -> dict[str, tuple[Any, Any]]:
    """Annotation and field of every setting."""
    hints = get_type_hints(part, include_extras=True)
    if issubclass(part, BaseModel):
        return {name: (hints[name], field) for name, field in part.model_fields.items()}
    assert is_dataclass(part)
    return {field.name: (hints[field.name], field) for field in fields(part)}


def _inner(annotation: Any) -> tuple[type | None, bool]:
    """The part of a study that this annotation holds, if it holds one, and whether it holds many."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and (issubclass(one, BaseModel) or is_dataclass(one)):
            return one, get_origin(annotation) is list
    return None, False


def _about(part: type) -> str:
    """The docstring of a part of the tree as Markdown, without the table's name in front of it."""
    if is_dataclass(part):
        return ""
    text = inspect.getdoc(part) or ""
    if text.startswith("`["):
        text = text.split(": ", 1)[1]
    return " ".join((text[0].upper() + text[1:]).replace("\n\n", "\n").split("\n"))


def _settings(part: type, path: str) -> Iterator[Setting]:
    for name, (annotation, field) in _fields(part).items():
        if _inner(annotation)[0] is not None:
            continue
        if isinstance(field, FieldInfo):
            meaning, limits = field.description or "", _own_limits(annotation, field)
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            required = field.is_required()
        else:
            meaning, limits = _DEGREES.get((part, name), ""), ()
            default, required = field.default, field.default is MISSING
        mark = "*" if f"{path}.{name}" in EXECUTION_SETTINGS or f"{path}.{name}" == "evaluation.task.shards" else ""
        shown = "required" if required else "not set" if default is None else f"`{json.dumps(default)}`"
        yield Setting(f"`{name}`{mark}", _type(annotation, limits), shown, _unit(annotation), meaning)


def _own_limits(annotation: Any, field: FieldInfo) -> Sequence[Any]:
    """What limits a list as a whole: it stands beside the default, not in the annotation."""
    return field.metadata if get_origin(annotation) is list or annotation is str else ()


def _unit(annotation: Any) -> str:
    if isinstance(annotation, Unit):
        return annotation.name
    return next((unit for inner in (*get_args(annotation), *_metadata(annotation)) if (unit := _unit(inner))), "")


def _metadata(annotation: Any) -> tuple[Any, ...]:
    return tuple(getattr(annotation, "__metadata__", ()))


def _type(annotation: Any, limits: Sequence[Any] = ()) -> str:
    """The values that are allowed, in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metadata = _metadata(annotation)
        words = next((one.words for one in metadata if isinstance(one, OneOf)), None)
        if words is not None:
            return ", ".join(f"`{json.dumps(word)}`" for word in words)
        if annotation == Name:
            return "name"
        of_fields = [limit for one in metadata if isinstance(one, FieldInfo) for limit in one.metadata]
        return _type(inner[0], of_fields)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin in (Union, UnionType):
        return ", or ".join(_type(one) for one in inner if one is not NoneType)
    if origin in (list, tuple):
        least = _limit(limits, "min_length")
        entries = _type(inner[0]).replace("integer", "integers").replace("number", "numbers")
        return f"list of {entries}" + (f"; at least {least}" if least else "")
    if annotation is str:
        pattern = _limit(limits, "pattern")
        return f"string that matches `{pattern}`" if pattern else "string"
    return "`true`, `false`" if annotation is bool else _number(annotation, limits)


def _number(annotation: Any, limits: Sequence[Any]) -> str:
    word = "integer" if annotation is int else "number"
    above, least, below, most = (_limit(limits, name) for name in ("gt", "ge", "lt", "le"))
    if above == 0 and annotation is int:
        above, least = None, 1
    ends = [f"above {above}" if above is not None else "", f"below {below}" if below is not None else ""]
    if least is not None:
        ends[0] = f"{least} to {most}" if most is not None else f"{least} or more"
    joined = " and ".join(end for end in ends if end)
    return f"{word}, {joined}" if joined else word


def _limit(limits: Sequence[Any], name: str) -> Any:
    return next((getattr(limit, name) for limit in limits if getattr(limit, name, None) is not None), None)


def page() -> str:
    """The whole page, in Markdown."""
    parts = [_HEAD]
    for section in sections():
        lines = [f"## {', '.join(f'`{title}`' for title in section.titles)}", "", section.about]
        if section.settings:
            lines += ["", "| setting | allowed values | default | unit | meaning |", "|---|---|---|---|---|"]
            lines += [
                f"| {one.name} | {one.type} | {one.default} | {one.unit} | {one.meaning} |" for one in section.settings
            ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
