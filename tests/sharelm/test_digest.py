"""Digests of specs and of packages: what must change them."""

import pytest

from sharelm.digest import code_digest, digest, package_digest
from sharelm.reach import parsed as sharelm_parsed


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


def test_an_unknown_function_is_an_error():
    for name in ("sharelm.no_such_module:f", "sharelm.digest:no_such_function", "numpy:array"):
        with pytest.raises(ModuleNotFoundError, match=name):
            code_digest(name)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        package_digest("no_such_package")


@pytest.mark.parametrize("file", ["words.py", "page.html.j2"])
def test_a_package_is_all_its_files(tmp_path, monkeypatch, file):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / f"digested_{file.partition('.')[0]}"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    found = []
    for text in ("x = 'a sentence'", "x = 'another'"):
        (package / file).write_text(text)
        package_digest.cache_clear()
        sharelm_parsed.cache_clear()
        found.append(package_digest(package.name))
    assert found[0] != found[1]
