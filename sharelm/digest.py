"""Names by content: the digest of a step's spec, and of the code that carries it out."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sharelm.reach import Reached, Sources, parsed, plain

DIGITS = 20
OWN = ("sharelm", "jobs")
VALUES = ("sharelm.study.node:Node",)  # a study's settings enter a spec by value
# What no result depends on. A test runs a trial, its scores and its costs and holds what was called against this.
OUTSIDE = (
    "sharelm.errors",
    "sharelm.digest",  # names steps
    "sharelm.reach",
    "sharelm.steps",
    "sharelm.store",  # moves bytes and checks them
    "sharelm.artefact",  # a model's files in the store
    "sharelm.tables",  # what columns mean; another schema has another version
    "sharelm.tasks",  # what is said of kinds of task and of metrics
    "sharelm.metrics",
    "sharelm.sharing.checks",  # refuses a study, or lets it through as it is
    "sharelm.sharing.drawing",
    "sharelm.study.node",  # what a setting may be; its value counts
    "sharelm.closed_form.footprint:footprint",  # figures beside a result: shown, and computed anew wherever they count
    "sharelm.closed_form.footprint:Footprint",
    "sharelm.study.memory:explain_lack_of_memory",
)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def digest(spec: Mapping[str, Any]) -> str:
    """The first 20 hexadecimal digits of the sha256 of this spec as canonical JSON.

    Raises `TypeError` or `ValueError` for a value that JSON does not know, NaN and infinity included.
    """
    return _short(json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False))


def package_folder(name: str) -> Path:
    """The folder of an installed package, which is not imported; `ModuleNotFoundError` where there is none."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package named {name!r}")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def own_sources() -> Sources:
    """The sources of this project's packages, as they are installed."""
    return Sources({name: package_folder(name) for name in OWN}, VALUES)


@cache
def code_digest(*entries: str, outside: tuple[str, ...] = ()) -> str:
    """The digest of all that these functions (`module:name`) reach, but for `OUTSIDE` and what else is `outside`.

    A comment, a docstring or a message changes nothing, nor does a definition that is not reached. Raises
    `ModuleNotFoundError` where there is no such function.
    """
    return reached_digest(own_sources(), entries, outside)


def reached_digest(sources: Sources, entries: tuple[str, ...], outside: tuple[str, ...] = ()) -> str:
    """`code_digest` of these sources."""
    return _short(json.dumps(Reached(sources, entries, (*OUTSIDE, *outside)).tree()))


@cache
def package_digest(*packages: str) -> str:
    """The digest of all code of these packages, messages included, and of the templates and texts beside it."""
    found = []
    for name in packages:
        folder = package_folder(name)
        files = (p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
        for path in files:
            content = plain(parsed(path)) if path.suffix == ".py" else hashlib.sha256(path.read_bytes()).hexdigest()
            found.append([name, path.relative_to(folder).as_posix(), content])
    return _short(json.dumps(found))
