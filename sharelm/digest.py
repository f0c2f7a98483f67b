"""Names by content: the digest of a step's spec, and of the code that carries it out."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

DIGITS = 20
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def digest(spec: Mapping[str, Any]) -> str:
    """The first 20 hexadecimal digits of the sha256 of this spec as canonical JSON.

    Raises `TypeError` or `ValueError` for a value that JSON does not know, NaN and infinity included.
    """
    return _short(json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False))


def _sources(module: str) -> list[Path]:
    """The files of a module, or of a package and everything below it; nothing but the search path is imported."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise ModuleNotFoundError(f"no module named {module!r}")
    if not spec.submodule_search_locations:
        found = [Path(spec.origin)] if spec.origin and not rest else []
    else:
        place = Path(next(iter(spec.submodule_search_locations))).joinpath(*rest)
        single = place.with_name(place.name + ".py")
        found = [single] if rest and single.is_file() else sorted(place.rglob("*.py"))
    if not found:
        raise ModuleNotFoundError(f"no sources of module {module!r}")
    return found


def _plain(node: Any) -> Any:
    """A syntax tree as nested lists, without positions, docstrings and what is empty.

    What is empty is left out because each Python release adds fields that are mostly empty.
    """
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.JoinedStr):  # some releases put empty strings between its parts
        fields["values"] = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, *([name, _plain(value)] for name, value in fields.items() if value not in (None, []))]


@cache  # several steps share most of their code
def _tree(path: Path) -> Any:
    return _plain(ast.parse(path.read_text(encoding="utf-8")))


@cache
def code_digest(*modules: str) -> str:
    """The digest of what these modules (or packages, whole) do: a comment, docstring or blank line changes nothing.

    Raises `ModuleNotFoundError` where there is no such module.
    """
    trees = [[module, path.name, _tree(path)] for module in sorted(set(modules)) for path in _sources(module)]
    return _short(json.dumps(trees))
