"""The code that a function reaches: what its result can depend on, found in the sources without running them.

Definitions are followed by name from an entry point: functions, constants, classes. Of a class count its fields and
those methods whose name is used somewhere in what was reached. The rest of a module is left out, so that a
function beside it may change. Left out as well are docstrings, comments and what a `raise` or an `assert` says:
no result depends on a message.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Bases of other libraries that call none of a class's methods by themselves.
_PASSIVE_BASES = {"NamedTuple", "Protocol", "Exception", "BaseModel", "Generic", "object"}
Definition = tuple[str, str]  # module, and name in it


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def plain(node: Any) -> Any:
    """A syntax tree as nested lists, without positions, docstrings and what is empty.

    What is empty is left out because each Python release adds fields that are mostly empty.
    """
    if isinstance(node, list):
        return [plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.JoinedStr):  # some releases put empty strings between its parts
        fields["values"] = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, *([name, plain(value)] for name, value in fields.items() if value not in (None, []))]


class _Silent(ast.NodeTransformer):
    """Takes out what errors say; their kinds stay."""

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(exc=kind, cause=None)

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        return ast.Assert(test=node.test, msg=None)


@dataclass
class _Module:
    """The top-level names of a module: what each is defined by, or where it is imported from."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Definition] = field(default_factory=dict)  # the name in the other module is "" for itself

    def collect(self, body: list[ast.stmt], module: str, is_package: bool) -> None:
        """Note the names that these statements bind, in branches and `with` blocks too."""
        for node in body:
            if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
                self.definitions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= imported(node, module, is_package)
            elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for name in (n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)):
                    self.definitions.setdefault(name, []).append(node)
            elif isinstance(node, ast.If | ast.Try | ast.With | ast.For):
                for part in ("body", "orelse", "finalbody"):
                    self.collect(getattr(node, part, []), module, is_package)


def imported(node: ast.Import | ast.ImportFrom, module: str, is_package: bool) -> dict[str, Definition]:
    """The names that an import statement binds, and what they stand for."""
    if isinstance(node, ast.Import):
        pairs = ((each.asname, each.name) if each.asname else (each.name.partition(".")[0],) * 2 for each in node.names)
        return {bound: (whole, "") for bound, whole in pairs}
    source = node.module or ""
    if node.level:
        above = module.split(".")[: len(module.split(".")) - node.level + is_package]
        source = ".".join([*above, *([source] if source else [])])
    return {each.asname or each.name: (source, each.name) for each in node.names}


class Sources:
    """The source files of some packages.

    Args:
        roots: each package's folder, by its name.
        values: classes (`module:name`) whose subclasses' fields enter a step's spec by value. Of these count the
            methods alone.
    """

    def __init__(self, roots: dict[str, Path], values: Collection[str] = ()) -> None:
        self._roots, self._values = roots, set(values)
        self._modules: dict[str, _Module | None] = {}

    def path(self, module: str) -> Path | None:
        """The file of a module; None where it belongs to none of the packages."""
        top, *rest = module.split(".")
        if top not in self._roots:
            return None
        place = self._roots[top].joinpath(*rest)
        found = (place / "__init__.py", place.with_name(place.name + ".py"))
        return next((path for path in found if path.is_file()), None)

    def module(self, name: str) -> _Module | None:
        """The names of a module; None where it belongs to none of the packages."""
        if name not in self._modules:
            path, made = self.path(name), None
            if path is not None:
                made = _Module()
                made.collect(parsed(path).body, name, path.name == "__init__.py")
            self._modules[name] = made
        return self._modules[name]

    def resolve(self, module: str, name: str) -> Definition | None:
        """Where a name is defined, through all re-exports; `(module, "")` for a module, None for other packages'."""
        known = self.module(module)
        if known is None:
            return None
        if name in known.definitions:
            return module, name
        if name in known.imports:
            source, original = known.imports[name]
            if not original:
                return (source, "") if self.module(source) is not None else None
            return self.resolve(source, original) or self._submodule(source, original)
        return self._submodule(module, name)

    def _submodule(self, module: str, name: str) -> Definition | None:
        whole = f"{module}.{name}"
        return (whole, "") if self.path(whole) is not None else None

    def is_value(self, module: str, node: ast.ClassDef) -> bool:
        """Whether a class is one of those whose fields enter by value, or derives from one."""
        if f"{module}:{node.name}" in self._values:
            return True
        for base in node.bases:
            found = self.resolve(module, base.id) if isinstance(base, ast.Name) else None
            if found is not None:
                above = self.module(found[0])
                for parent in above.definitions.get(found[1], []) if above else []:
                    if isinstance(parent, ast.ClassDef) and self.is_value(found[0], parent):
                        return True
        return False


class Reached:
    """What some entry points reach.

    Args:
        sources: where definitions are looked up.
        entries: `module:name` of each entry point; `ModuleNotFoundError` where there is none.
        outside: modules (with all below them) and definitions (`module:name`) that are not followed.
    """

    def __init__(self, sources: Sources, entries: Collection[str], outside: Collection[str] = ()) -> None:
        self._sources, self._outside = sources, set(outside)
        self.parts: dict[tuple[str, str], list[ast.AST]] = {}  # by module and `name` or `Class.method`
        self._attributes: set[str] = set()
        self._seen: set[Definition] = set()
        self._members: dict[str, list[tuple[str, str, ast.AST, bool]]] = {}  # not used yet, by their name
        self._waiting: list[Definition] = []
        for entry in entries:
            module, _, name = entry.partition(":")
            found = sources.resolve(module, name)
            if found is None or not found[1]:
                raise ModuleNotFoundError(f"no definition {entry!r}")
            self._waiting.append(found)
        while self._waiting:
            self._define(self._waiting.pop())

    def _define(self, definition: Definition) -> None:
        module, name = definition
        inside = f"{module}.".startswith(tuple(f"{each}." for each in self._outside if ":" not in each))
        if definition in self._seen or inside or f"{module}:{name}" in self._outside:
            return
        self._seen.add(definition)
        known = self._sources.module(module)
        assert known is not None
        for node in known.definitions[name]:
            if isinstance(node, ast.ClassDef):
                self._class(module, node)
            else:
                self._take(module, name, node)

    def _class(self, module: str, node: ast.ClassDef) -> None:
        """Its bases and decorators; its methods wait until their name is used, unless another library calls them."""
        by_value = self._sources.is_value(module, node)
        self._take(module, node.name, *node.bases, *node.decorator_list)
        active = any(self._active(module, base) for base in node.bases)
        for member in node.body:
            if isinstance(member, _FUNCTIONS):
                special = member.name.startswith("__") and member.name.endswith("__")
                self._member(module, node.name, member.name, member, special or active, True)
            elif isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name) and by_value:
                self._member(module, node.name, member.target.id, member.annotation, False, False)
            elif not (isinstance(member, ast.Expr) and isinstance(member.value, ast.Constant)) and not by_value:
                self._take(module, node.name, member)

    def _active(self, module: str, base: ast.expr) -> bool:
        """Whether a base is another library's that may call any of the methods."""
        name = base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""
        own = isinstance(base, ast.Name) and self._sources.resolve(module, base.id) is not None
        return not own and name not in _PASSIVE_BASES

    def _member(self, module: str, owner: str, name: str, node: ast.AST, now: bool, counts: bool) -> None:
        if now or name in self._attributes:
            self._use(module, owner, name, node, counts)
        else:
            self._members.setdefault(name, []).append((module, owner, node, counts))

    def _use(self, module: str, owner: str, name: str, node: ast.AST, counts: bool) -> None:
        """A field that enters by value is followed to its type, but does not count itself."""
        if counts:
            self._take(module, f"{owner}.{name}", node)
        else:
            self._follow(module, node)

    def _take(self, module: str, name: str, *nodes: ast.AST) -> None:
        for node in nodes:
            silent = _Silent().visit(deepcopy(node))
            self.parts.setdefault((module, name), []).append(silent)
            self._follow(module, silent)

    def _follow(self, module: str, node: ast.AST) -> None:
        path = self._sources.path(module)
        is_package = path is not None and path.name == "__init__.py"
        local: dict[str, Definition] = {}
        for each in ast.walk(node):
            if isinstance(each, ast.Import | ast.ImportFrom):
                local |= imported(each, module, is_package)
        for each in ast.walk(node):
            if isinstance(each, ast.Name):
                self._name(module, each.id, local)
            elif isinstance(each, ast.Attribute):
                self._attribute(module, each, local)

    def _name(self, module: str, name: str, local: dict[str, Definition]) -> Definition | None:
        if name in local:
            source, original = local[name]
            found = self._sources.resolve(source, original) if original else (source, "")
        else:
            found = self._sources.resolve(module, name)
        if found is not None and found[1]:
            self._waiting.append(found)
        return found

    def _attribute(self, module: str, node: ast.Attribute, local: dict[str, Definition]) -> None:
        """A use of a name on something: a module's own definition, or a member of any class that was reached."""
        if isinstance(node.value, ast.Name):
            base = self._name(module, node.value.id, local)
            if base is not None and not base[1]:
                found = self._sources.resolve(base[0], node.attr)
                if found is not None and found[1]:
                    self._waiting.append(found)
        if node.attr not in self._attributes:
            self._attributes.add(node.attr)
            for owner_module, owner, member, counts in self._members.pop(node.attr, []):
                self._use(owner_module, owner, node.attr, member, counts)

    def names(self) -> Iterator[str]:
        """Every part as `module:name` or `module:Class.method`."""
        return (f"{module}:{name}" for module, name in self.parts)

    def tree(self) -> list[Any]:
        """All parts as nested lists, whatever order they were found in."""
        return [
            [module, name, [plain(node) for node in self.parts[module, name]]] for module, name in sorted(self.parts)
        ]
