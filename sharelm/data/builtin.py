"""`builtin:python`: the running Python's own standard library as two domains; every machine has it.

*prose* is each of the language reference's topics that `help()` shows, and each module's docstrings under the names
they describe; *code* is each module without its docstrings. So no docstring is in both.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import platform
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from sharelm.errors import InputError

DOMAINS = ("prose", "code")
_LEAST_CHARACTERS = 200
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "_bundled"}
_SKIPPED_MODULES = {"encodings"}  # tables of characters
_TOPICS = Path("pydoc_data", "topics.py")
_Holding = ast.stmt | ast.excepthandler | ast.match_case  # what a definition can stand in
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _files() -> list[tuple[Path, Path]]:
    """Relative and absolute path of every module of the standard library, site-packages excluded."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[Path] = []
    for name in sorted(sys.stdlib_module_names - _SKIPPED_MODULES):
        single = root / f"{name}.py"
        found += [single] if single.is_file() else sorted((root / name).rglob("*.py"))
    relative = [(path.relative_to(root), path) for path in found]
    return [(inner, path) for inner, path in relative if not _SKIPPED_FOLDERS.intersection(inner.parts)]


def fingerprint() -> str:
    """The Python version and a digest of the files that are read."""
    content = hashlib.sha256()
    for inner, path in _files():
        content.update(f"{inner.as_posix()}\0{path.stat().st_size}\0".encode())
        content.update(path.read_bytes())
    return f"{platform.python_version()} {content.hexdigest()}"


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, _Documented]]:
    """Every node that has a docstring, with its qualified name, in the order of the source."""
    inner = name
    if isinstance(node, _Documented):
        if not isinstance(node, ast.Module):
            inner = f"{name}.{node.name}"
        if ast.get_docstring(node) is not None:
            yield inner, node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Holding):
            yield from _documented(child, inner)


def _without_docstrings(source: str, nodes: list[_Documented]) -> str:
    """The source without these nodes' docstrings; `pass` replaces a docstring that was a whole body."""
    lines = source.encode().splitlines(keepends=True)  # the parser counts columns in UTF-8 bytes
    for node in sorted(nodes, key=lambda each: each.body[0].lineno, reverse=True):
        docstring = node.body[0]
        first, last = docstring.lineno - 1, (docstring.end_lineno or docstring.lineno) - 1
        instead = b"pass" if len(node.body) == 1 else b""
        rest = lines[first][: docstring.col_offset] + instead + lines[last][docstring.end_col_offset :]
        lines[first : last + 1] = [rest] if rest.strip() else []
    return b"".join(lines).decode().lstrip("\n")


def _topics(tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            topics: dict[str, str] = ast.literal_eval(statement.value)
            yield from (topics[name] for name in sorted(topics))


def _texts() -> Iterator[tuple[str, str]]:
    for inner, path in _files():
        source = importlib.util.decode_source(path.read_bytes())
        tree = ast.parse(source)
        if inner == _TOPICS:
            yield from (("prose", topic) for topic in _topics(tree))
            continue
        name = ".".join(inner.with_suffix("").parts).removesuffix(".__init__")
        nodes = list(_documented(tree, name))
        yield "prose", "\n\n".join(f"{each}\n\n{ast.get_docstring(node)}" for each, node in nodes)
        yield "code", _without_docstrings(source, [node for _, node in nodes])


def documents(domain: str | None) -> Iterator[tuple[str, str]]:
    """Domain and text of every document, in the order of the modules' names; only of `domain` if it is given."""
    if domain is not None and domain not in DOMAINS:
        raise InputError(
            f"builtin:python: domain = {domain!r} is not one of its domains prose and code; leave it out for both"
        )
    for found, text in _texts():
        if domain in (None, found) and len(text) >= _LEAST_CHARACTERS:
            yield found, text
