"""Files of questions: what is refused, and what is read."""

import json
from pathlib import Path

import pytest

from sharelm.errors import InputError
from sharelm.evaluation import read_answers, read_questions

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
        (
            '{"query": "\\ud83d", "choices": ["b", "c"], "gold": 0}',
            "line 1: query = '\\ud83d' has half a surrogate pair",
        ),
        ('{"query": "a", "choices": ["b", "\\ud83d"], "gold": 0}', "line 1: choices = ['b', '\\ud83d'] has half"),
    ],
)
def test_a_bad_file_is_refused_by_line_field_and_value(content, sentence, tmp_path):
    path = tmp_path / "quiz.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_questions(path)
    assert str(error.value).startswith(str(path))
    assert sentence in str(error.value)


ANSWERED = '{"query": "a", "answer": "b"}\n'


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "holds no questions; a line is a JSON object with query and answer"),
        (ANSWERED + "{", "line 2 is not JSON"),
        (ANSWERED + "\n[1]", "line 3 is not a JSON object with query and answer"),
        ('{"answer": "b"}', "line 1: query is missing"),
        (ANSWERED + '{"query": "a"}', "line 2: answer is missing"),
        ('{"query": 3, "answer": "b"}', "line 1: query = 3 is not a string"),
        ('{"query": "a", "answer": 3}', "line 1: answer = 3 is not a text or a list of texts"),
        ('{"query": "a", "answer": []}', "line 1: answer = [] is not a text"),
        ('{"query": "a", "answer": ["b", 3]}', "line 1: answer = ['b', 3] is not a text"),
        ('{"query": "a", "answer": " "}', "line 1: answer = ' ' is not a text"),
        ('{"query": "a", "answer": null}', "line 1: answer = None is not a text"),
        ('{"query": "a", "answer": "\\udc00"}', "line 1: answer = '\\udc00' has half a surrogate pair"),
    ],
)
def test_a_bad_file_of_answers_is_refused_by_line_field_and_value(content, sentence, tmp_path):
    path = tmp_path / "open.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_answers(path)
    assert str(error.value).startswith(str(path))
    assert sentence in str(error.value)


def test_one_answer_or_several_are_accepted(tmp_path):
    path = tmp_path / "open.jsonl"
    path.write_text(ANSWERED + '\n{"query": "", "answer": ["c ", "\u2028d"], "more": 1}', encoding="utf-8")
    found = [(question.line, question.query, question.accepted) for question in read_answers(path)]
    assert found == [(1, "a", ("b",)), (3, "", ("c ", "\u2028d"))]


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
