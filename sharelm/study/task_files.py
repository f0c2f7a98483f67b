"""A task of lm-evaluation-harness as its files say it: the YAML, what that includes, its Python modules, its data.

The harness itself is not imported here: a driver must be able to name a task's files within milliseconds.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sharelm.errors import InputError
from sharelm.jsonl import read_objects, read_text
from sharelm.study.evaluation import Task

Row = dict[str, Any]


@dataclass(frozen=True)
class Definition:
    """A task's texts, so that a worker that sees none of its files can build it.

    `files` are the texts of an own task by their paths beside its YAML, which is the first; empty for a task that the
    harness brings, which `builtin` names by its YAML's path there. `settings` stand above what the YAML says.
    """

    label: str
    files: tuple[tuple[str, str], ...]
    builtin: str | None
    settings: Mapping[str, Any]


class _Loader(yaml.SafeLoader):
    """YAML with the harness's tag `!function`, which stays a name here."""


@dataclass(frozen=True)
class _Function:
    module: str


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> _Function:
    return _Function(str(loader.construct_scalar(node)).rpartition(".")[0])


_Loader.add_constructor("!function", _function)


def task_files(path: Path) -> tuple[tuple[str, str], ...]:
    """The texts of a task's YAML, of what it includes and of the modules beside it that its functions come from.

    Raises `InputError` naming the file, and the line where there is one.
    """
    return tuple(_read(path)[0].items())


def _read(path: Path) -> tuple[dict[str, str], Row]:
    """A task's texts by their paths beside its YAML, and its fields: what includes stands above what is included."""
    found: dict[str, str] = {}

    def fields(at: Path) -> Row:
        name = _beside(at, path.parent)
        if name in found:
            raise InputError(f"{at} includes itself")
        tree = _tree(at, found.setdefault(name, read_text(at)))
        included = tree.pop("include", None) or []
        merged: Row = {}
        for other in included if isinstance(included, list) else [included]:
            merged |= fields(at.parent / other)
        for module in sorted({value.module for value in _values(tree) if isinstance(value, _Function)}):
            beside = at.parent / f"{module.replace('.', '/')}.py"
            if beside.exists():  # else it is a module of a package
                found[_beside(beside, path.parent)] = read_text(beside)
        return merged | tree

    return found, fields(path)


def _tree(path: Path, text: str) -> Row:
    try:
        tree = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" line {mark.line + 1}"
        raise InputError(f"{path}{where} is not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path} is not a mapping of a task's fields")
    return tree


def _beside(path: Path, base: Path) -> str:
    try:
        return str(path.resolve().relative_to(base.resolve()))
    except ValueError:
        raise InputError(f"{path} is not in {base}, the folder of the task's YAML") from None


def _values(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        for below in tree.values() if isinstance(tree, dict) else tree:
            yield from _values(below)
    else:
        yield tree


def read_rows(path: Path) -> list[Row]:
    """The documents of a JSONL file; raises `InputError` naming the line that is none or has other fields."""
    objects = read_objects(path, "documents")
    fields = objects[0][1].keys()
    for number, row in objects:
        for field in sorted(row.keys() ^ fields):
            raise InputError(f"{path} line {number}: {field} is not in every line; all lines have the same fields")
    return [row for _, row in objects]


def data_files(task: Task, base: Path) -> dict[str, Path]:
    """The JSONL file of each split: those of the study, else those of an own task that reads local JSON."""
    if task.data_files is not None:
        return {split: Path(base, name) for split, name in task.data_files.items()}
    if task.file is None:
        return {}
    folder = Path(base, task.file).parent
    _, tree = _read(Path(base, task.file))
    if tree.get("dataset_path") != "json":
        return {}
    files = (tree.get("dataset_kwargs") or {}).get("data_files")
    if isinstance(files, str):
        files = {"train": files}  # as the library datasets calls it
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise InputError(
            f"{Path(base, task.file)}: dataset_kwargs.data_files is not a file, nor a file for each split, as "
            "dataset_path = json needs"
        )
    return {split: folder / name for split, name in files.items()}


def named_files(task: Task, base: Path) -> Iterator[tuple[str, str]]:
    """Each file that a task reads, as the setting that leads to it and its path; those below `base` relative to it."""
    if task.file is not None:
        yield "file", task.file
    if task.traits.reads != "task":
        return
    if task.file is not None:
        folder = Path(task.file).parent
        yield from (("file", str(folder / name)) for name, _ in task_files(Path(base, task.file))[1:])
    for split, path in data_files(task, base).items():
        yield f"data_files.{split}", str(path.relative_to(base) if path.is_relative_to(base) else path)


def task_texts(task: Task, base: Path) -> dict[str, Any]:
    """All that decides a task's items besides its settings: its files' texts, its data, the harness's version."""
    return {
        "version": check_installed(),
        "files": [] if task.file is None else task_files(Path(base, task.file)),
        "data": {split: read_text(path) for split, path in data_files(task, base).items()},
    }


def check_installed() -> str:
    """The harness's version; raises `InputError` where it is not installed."""
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            "a task of kind harness needs lm-evaluation-harness: pip install 'sharelm[harness]' here and on every node"
        ) from None
