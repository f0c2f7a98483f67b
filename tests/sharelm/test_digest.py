"""Digests: what must change them, what must not; checked against modules written for the purpose."""

import ast
import sys
from pathlib import Path

import pytest

import sharelm.digest
from sharelm import steps
from sharelm.digest import code_digest, digest

SOURCE = '''"""A module."""

def area(width, height=2):
    """Its docstring."""
    # a comment
    return width * height
'''


def test_digest_is_of_values_not_of_their_order():
    assert digest({"a": 1, "b": [1, 2.5, None]}) == digest({"b": (1, 2.5, None), "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})
    assert len(digest({})) == 20


def test_digest_is_fixed_for_good():
    # printf '%s' '{"depth":4,"name":"x"}' | sha256sum
    assert digest({"name": "x", "depth": 4}) == "a31e59d6edb6e1535f62"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_digest_refuses_what_json_does_not_know(value):
    with pytest.raises((TypeError, ValueError)):
        digest({"a": value})


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Digest of the package of this source beside an empty module; fails if the package is imported."""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "digested_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "other.py").write_text("")

    def digest_of(source, module="digested_package"):
        (package / "shapes.py").write_text(source)
        sharelm.digest._tree.cache_clear()
        code_digest.cache_clear()
        return code_digest(module)

    return digest_of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another"),
        ('"""Its docstring."""', '"""Another."""'),
        ('    """Its docstring."""\n', ""),
        ('"""A module."""\n\n', "\n\n\n"),
        ("return width * height", "return (width *\n            height)"),
    ],
)
def test_what_is_for_readers_changes_nothing(code, old, new):
    assert old in SOURCE
    assert code(SOURCE) == code(SOURCE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [("width * height", "height * width"), ("height=2", "height=3"), ("height=2", "height=2.0"), ("def area", "def a")],
)
def test_what_the_code_does_changes_it(code, old, new):
    assert old in SOURCE
    assert code(SOURCE) != code(SOURCE.replace(old, new))


def test_one_module_of_a_package(code):
    assert code(SOURCE, "digested_package.shapes") != code(SOURCE + "x = 1", "digested_package.shapes")
    assert code(SOURCE, "digested_package.other") == code(SOURCE + "x = 1", "digested_package.other")
    assert "digested_package" not in sys.modules


def test_an_unknown_module_is_an_error():
    for name in ("no_such_module", "sharelm.no_such_module"):
        with pytest.raises(ModuleNotFoundError, match=name):
            code_digest(name)


def test_empty_strings_that_some_pythons_see_in_a_formatted_one_change_nothing(code, monkeypatch):
    """Python 3.12's parser puts one after a part with a format; a store must serve all releases."""
    source = SOURCE + "\ndef line(x):\n    return f'{x:>{5}} and {x:.2f}'\n"
    before, parse = code(source), ast.parse

    def parse_as_another_release(text):
        tree = parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                node.values.append(ast.Constant(""))
        return tree

    monkeypatch.setattr(ast, "parse", parse_as_another_release)
    assert code(source) == before
    assert code(source.replace(" and ", " or ")) != before


def test_a_trial_is_named_by_all_code_that_its_model_is_made_of():
    """Decoding's caches are the exception: no model is trained with them."""
    folder = Path(steps.__file__).parent / "model"
    reached, waiting = set(), ["decoder"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sharelm.model"):
                below = node.module.removeprefix("sharelm.model").lstrip(".")
                waiting += {below} - reached if below else {each.name for each in node.names} - reached
    assert reached - {"caches"} == set(steps._MODEL_CODE)
