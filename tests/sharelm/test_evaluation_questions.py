"""Multiple-choice files: what is refused, and what is read."""

import json
from pathlib import Path

import pytest

from sharelm.errors import InputError
from sharelm.evaluation import read_questions

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
GOOD = '{"query": "a", "choices": ["b", "c"], "gold": 0}\n'


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "holds no questions"),
        ("\n \n", "holds no questions"),
        (GOOD + "{", "line 2 is not JSON"),
        (GOOD + "\n[1]", "line 3 is not a JSON object with query, choices and gold"),
        ('{"choices": ["b", "c"], "gold": 0}', "line 1: query is missing"),
        ('{"query": "a", "gold": 0}', "line 1: choices is missing"),
        (GOOD + '{"query": "a", "choices": ["b", "c"]}', "line 2: gold is missing"),
        ('{"query": 3, "choices": ["b", "c"], "gold": 0}', "line 1: query = 3 is not a string"),
        ('{"query": "a", "choices": ["b"], "gold": 0}', "line 1: choices = ['b'] is not a list of two or more"),
        ('{"query": "a", "choices": ["b", " "], "gold": 0}', "line 1: choices = ['b', ' '] is not a list"),
        ('{"query": "a", "choices": "bc", "gold": 0}', "line 1: choices = 'bc' is not a list"),
        ('{"query": "a", "choices": ["b", "c"], "gold": 2}', "gold = 2 is not an index of the 2 choices (0 to 1)"),
        ('{"query": "a", "choices": ["b", "c"], "gold": -1}', "gold = -1 is not an index"),
        ('{"query": "a", "choices": ["b", "c"], "gold": "b"}', "gold = 'b' is not an index"),
        ('{"query": "a", "choices": ["b", "c"], "gold": true}', "gold = True is not an index"),
    ],
)
def test_a_bad_file_is_refused_by_line_field_and_value(content, sentence, tmp_path):
    path = tmp_path / "quiz.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_questions(path)
    assert str(error.value).startswith(str(path))
    assert sentence in str(error.value)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.jsonl cannot be read: No such file"):
        read_questions(tmp_path / "absent.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary is not UTF-8"):
        read_questions(tmp_path / "binary")


def test_every_shared_multiple_choice_file_is_readable():
    if not SHARED.exists():
        pytest.skip("no shared data beside this checkout")
    read = 0
    for path in sorted((SHARED / "llm-foundry-eval").rglob("*.jsonl")):
        first = json.loads(path.open(encoding="utf-8").readline())
        if {"query", "choices", "gold"} <= set(first):
            read += len(read_questions(path)) > 0
    assert read > 10
