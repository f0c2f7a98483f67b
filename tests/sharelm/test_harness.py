"""Tasks of lm-evaluation-harness: item by item the scores of the harness's own `hf` model; tasks that are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lm_eval")

import transformers
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from tokenizers import processors

from benchmarks.tasks import write_tasks
from sharelm.data.tokenizer import END_OF_TEXT, end_of_text, tokenizer_from, train_tokenizer
from sharelm.errors import InputError
from sharelm.evaluation import check_room, file_items, harness, score, shard
from sharelm.evaluation.decoder import DecoderScorer
from sharelm.evaluation.encoding import Encoding
from sharelm.evaluation.folder import folder_scorer
from sharelm.steps import file_digest
from sharelm.study.evaluation import Task
from sharelm.study.task_files import data_files, read_rows, task_files
from tests.sharelm.models import SHAPE as SMALL
from tests.sharelm.models import SHARINGS, decoder

DATA = Path(__file__).parents[2].parent / "shared" / "data"
EXAMPLES = Path(__file__).parents[2] / "examples" / "tasks"
WORDS = ["stone", "river", "light", "seven", "green", "house", "winter", "garden"]
CONTEXT = 96
CHOICE = """
task: own_choice
dataset_path: json
dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}
training_split: train
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
LAST_WORD = """
task: own_last_word
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{question}} "
doc_to_target: "{{choices[gold]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
EXTRACTION = """
task: own_extraction
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}\\nAnswer:"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 6, do_sample: false}
filter_list:
  - name: first_word
    filter:
      - {function: regex, regex_pattern: "([a-z]+)"}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
"""
WITH_CODE = """
include: choice.yaml
task: own_code
process_docs: !function helpers.shout
process_results: !function helpers.judge
metric_list:
  - {metric: won, aggregation: mean, higher_is_better: true}
"""
HELPERS = """
def shout(dataset):
    return dataset.map(lambda doc: {"question": doc["question"].upper()})

def judge(doc, results):
    return {"won": float(results[doc["gold"]][0] == max(value for value, _ in results))}
"""
TASKS = {"choice": CHOICE, "last_word": LAST_WORD, "extraction": EXTRACTION, "code": WITH_CODE}
TEXT = "Question: the stone is in the green river.\nAnswer: seven house garden light winter, stone. " * 9


def document(number: int) -> dict[str, Any]:
    words = [WORDS[(number * 3 + at) % len(WORDS)] for at in range(5)]
    return {"question": f"is the {words[0]} in the {words[1]} {number}?", "choices": words[2:], "gold": number % 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of one's own with their data."""
    found = tmp_path_factory.mktemp("tasks")
    for name, text in TASKS.items():
        (found / f"{name}.yaml").write_text(text, encoding="utf-8")
    (found / "helpers.py").write_text(HELPERS, encoding="utf-8")
    for split, numbers in (("train", range(30, 40)), ("test", range(14))):
        rows = "".join(json.dumps(document(number)) + "\n" for number in numbers)
        (found / f"{split}.jsonl").write_text(rows, encoding="utf-8")
    return found


def own(name: str, **settings: Any) -> Task:
    return Task(name=name, kind="harness", file=f"{name}.yaml", **settings)


class Ours(transformers.PreTrainedModel):
    """One of the project's models as transformers would call it: what an export is, for the harness's `hf`."""

    config_class = transformers.GPT2Config

    def __init__(self, model: Any) -> None:
        super().__init__(transformers.GPT2Config(n_positions=CONTEXT, vocab_size=model.shape.vocabulary))
        self.model = model

    def forward(self, input_ids: Any, **_: Any) -> Any:
        return transformers.modeling_outputs.CausalLMOutput(logits=self.model(input_ids))


@pytest.fixture(scope="module")
def ours() -> SimpleNamespace:
    tokenizer = tokenizer_from(train_tokenizer([TEXT], 290).to_str())
    model = decoder(SHARINGS["relaxed"], replace(SMALL, vocabulary=290, context=CONTEXT)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 3  # so that choices differ
    end = end_of_text(tokenizer)
    read = tokenizer_from(tokenizer.to_str())
    read.encode_special_tokens = False
    read.post_processor = processors.TemplateProcessing(single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, end)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=read, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    theirs = HFLM(pretrained=Ours(model), tokenizer=fast, batch_size=4, device="cpu", max_length=CONTEXT)
    return SimpleNamespace(scorer=DecoderScorer(model, tokenizer, 400), theirs=theirs)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A Hugging Face folder of a model from a seeded configuration."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=290, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer([TEXT], 290), eos_token=END_OF_TEXT, bos_token=END_OF_TEXT
    )
    model.config.eos_token_id = model.generation_config.eos_token_id = fast.eos_token_id
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    theirs = HFLM(pretrained=model, tokenizer=fast, batch_size=4, device="cpu")
    return SimpleNamespace(folder=folder, scorer=folder_scorer(folder, "cpu", torch.float32, 400), theirs=theirs)


def of_the_harness(theirs: HFLM, task: Task, base: Path) -> list[dict[str, Any]]:
    """The harness's own samples of this task, in order."""
    (definition,) = harness.definitions(task, base)
    built = harness._build(definition, {split: read_rows(path) for split, path in data_files(task, base).items()})
    built.set_fewshot_seed(harness.FEWSHOT_SEED)
    found = evaluate(theirs, {built.task_name: built}, limit=task.max_items, log_samples=True, bootstrap_iters=0)
    return sorted(found["samples"][built.task_name], key=lambda sample: sample["doc_id"])


def agree(scorer: Any, theirs: HFLM, task: Task, base: Path) -> list[dict[str, Any]]:
    """Hold our rows against the harness's, item by item."""
    rows = score(scorer, file_items(task, base)).to_pylist()
    samples = of_the_harness(theirs, task, base)
    assert len(rows) == len(samples) > 0
    for row, sample in zip(rows, samples, strict=True):
        assert (row["document_sha256"], row["prompt_sha256"]) == (sample["doc_hash"], sample["prompt_hash"])
        metrics = json.loads(row["metrics_json"])
        for name in sample["metrics"]:
            assert metrics[f"{name},{sample['filter']}"] == pytest.approx(float(sample[name]), rel=1e-4), (row, sample)
        if row["nll_nats"] is not None:
            likelihoods = [answers[0] for answers in sample["resps"]]
            found = [float(value) for value, _ in likelihoods]
            assert min(abs(-row["nll_nats"] - value) / abs(value) for value in found) < 1e-4
    return rows


@pytest.mark.parametrize(
    "task",
    [
        own("choice", num_fewshot=2, max_items=8),
        own("choice", metric="acc_norm"),
        own("last_word", metric="acc"),
        own("code"),
    ],
    ids=["fewshot", "choice", "last_word", "code"],
)
@pytest.mark.parametrize("whose", ["ours", "llama"])
def test_scores_are_the_harnesss_own(whose: str, task: Task, folder: Path, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(whose)
    rows = agree(model.scorer, model.theirs, task, folder)
    assert len(rows) == (task.max_items or 14)
    metric = {"choice": task.metric or "acc", "last_word": "acc", "code": "won"}[task.name]
    assert [row["correct"] for row in rows] == [json.loads(row["metrics_json"])[f"{metric},none"] for row in rows]


def test_what_is_generated_is_judged_as_the_harness_does(llama: SimpleNamespace, folder: Path) -> None:
    rows = agree(llama.scorer, llama.theirs, own("extraction"), folder)
    assert {row["nll_nats"] for row in rows} == {None}


@pytest.mark.parametrize("name", ["lambada_openai", "hellaswag", "piqa", "arc_easy", "winogrande", "blimp"])
def test_public_tasks_are_scored_as_the_harness_does(name: str, llama: SimpleNamespace, tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip("the public evaluation sets are not here")
    for task in write_tasks(DATA, tmp_path, [name], most=6)[:2]:
        rows = agree(llama.scorer, llama.theirs, task, tmp_path)
        assert {row["domain"] for row in rows} == {task.name}


def test_the_tasks_of_a_group_have_equal_shares(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (alone,) = harness.definitions(own("choice"), folder)
    monkeypatch.setattr(harness, "definitions", lambda *_: [alone, alone])
    items = file_items(own("choice", max_items=5), folder)
    assert [item.document for item in items] == [f"own_choice:{number}" for number in (0, 1, 2, 0, 1)]


@pytest.mark.parametrize(("name", "documents"), [("intent", 24), ("handbook", 12), ("order_number", 12)])
def test_the_examples_are_scored_as_the_harness_does(name: str, documents: int, llama: SimpleNamespace) -> None:
    rows = agree(llama.scorer, llama.theirs, own(name), EXAMPLES)
    assert len(rows) == documents
    assert f"## {name}.yaml" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_any_number_of_shards_gives_the_same_rows(llama: SimpleNamespace, folder: Path) -> None:
    task = own("choice", num_fewshot=1)
    items = file_items(task, folder)
    whole = {row["document"]: row for row in score(llama.scorer, items).to_pylist()}
    for count in (2, 5):
        parts = [score(llama.scorer, shard(items, index, count)).to_pylist() for index in range(count)]
        rows = {row["document"]: row for part in parts for row in part}
        assert rows.keys() == whole.keys()
        for document, row in rows.items():
            assert row["nll_nats"] == pytest.approx(whole[document]["nll_nats"], rel=1e-5)
            assert row["correct"] == whole[document]["correct"]


class Pairs(TemplateLM):
    """The harness's way to encode, over a tokenizer alone."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    eot_token_id = 0
    loglikelihood_rolling = generate_until = _loglikelihood_tokens = None  # type: ignore[assignment]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self._tokenizer.encode(string, add_special_tokens=False).ids


TOKENIZER = train_tokenizer([TEXT], 290)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.sampled_from("the stone\n :é"), max_size=20).filter(str.strip),
            st.text(st.sampled_from("the stone\n.あ"), min_size=1, max_size=12),
        ),
        max_size=6,
    )
)
def test_pairs_are_encoded_as_the_harness_does(requests: list[tuple[str, str]]) -> None:
    found = Encoding(TOKENIZER, first=0, end=0, special_tokens=True).pairs(requests)
    assert found == [Pairs(TOKENIZER)._encode_pair(*request) for request in requests]
    first = Encoding(TOKENIZER, first=7, end=0, special_tokens=False).pairs(requests)
    assert first == [([7, *context], continuation) for context, continuation in found]


def test_a_tasks_files_have_one_order(tmp_path: Path) -> None:
    """Whatever order a process gives to the members of a set: the files name the task's scores."""
    fields = {"doc_to_text": "c", "doc_to_target": "a", "doc_to_choice": "d", "process_docs": "b"}
    lines = [f"{name}: !function {module}.f" for name, module in fields.items()]
    (tmp_path / "task.yaml").write_text("\n".join(["task: x", *lines]), encoding="utf-8")
    for module in fields.values():
        (tmp_path / f"{module}.py").write_text("f = str\n", encoding="utf-8")
    assert [name for name, _ in task_files(tmp_path / "task.yaml")] == ["task.yaml", "a.py", "b.py", "c.py", "d.py"]


def test_a_tasks_name_changes_with_every_file_it_reads(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    task = own("code")
    names = {file_digest(task, tmp_path)}
    for name in ("code.yaml", "choice.yaml", "helpers.py", "test.jsonl"):
        path = tmp_path / name
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        names.add(file_digest(task, tmp_path))
    assert len(names) == 5
    (tmp_path / "extraction.yaml").unlink()
    assert file_digest(task, tmp_path) in names


BAD = {
    "unknown field": ("choice", [("doc_to_choice:", "doc_to_choise:")], "doc_to_choise is no field of a task"),
    "no file": ("choice", [("test.jsonl", "gone.jsonl")], "gone.jsonl cannot be read: No such file"),
    "not YAML": ("choice", [("task: own_choice", "task: [own")], "choice.yaml line 3 is not YAML"),
    "no mapping": ("choice", [(CHOICE, "- task")], "choice.yaml is not a mapping of a task's fields"),
    "no module": ("code", [("helpers.shout", "nowhere.shout")], "Cannot import module 'nowhere'"),
    "metric": ("choice", [("metric: acc_norm", "metric: acc_nrom")], "metric 'acc_nrom' is none that the harness"),
    "samples": ("extraction", [("do_sample: false", "do_sample: true")], "generation_kwargs samples"),
    "rolling": ("last_word", [("loglikelihood\n", "loglikelihood_rolling\n")], "use kind = bits_per_byte"),
    "code of models": ("choice", [("task: own", "unsafe_code: true\ntask: own")], "unsafe_code = true allows that"),
    "template": ("choice", [("{{question}}", "{{question")], "is no task that lm-evaluation-harness can ask"),
    "class": ("choice", [("task: own", "class: x\ntask: own")], "is a Python class"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "sentence"), BAD.values(), ids=BAD)
def test_a_bad_task_is_refused_in_one_sentence(
    name: str, changes: list[tuple[str, str]], sentence: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    text = TASKS[name]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    refused(own(name), tmp_path, sentence)


def refused(task: Task, base: Path, sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        file_items(task, base)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            b'{"question": "x", "choices": ["a", "b"], "gold": 2}',
            "document 2: the answer 2 is no index of its 2 choices",
        ),
        (b'{"question": "x", "choices": ["a", "b"], "gold": -1}', "the answer -1 is no index of its 2 choices"),
        (b'{"question": "x", "choices": ["a", "a"], "gold": 0}', "choices = ['a', 'a'] has the same choice twice"),
        (b'{"question": "x", "choices": ["a", " "], "gold": 0}', "document 2: an answer is empty"),
        (b'{"question": "x", "choices": ["a"], "gold"', "test.jsonl line 2 is not JSON"),
        (
            b'{"question": "x\xff", "choices": ["a", "b"], "gold": 0}',
            "test.jsonl is not UTF-8: invalid start byte at byte 111, in line 2",
        ),
        (
            rb'{"question": "\ud800", "choices": ["a", "b"], "gold": 0}',
            "test.jsonl line 2: question = '\\ud800' has half",
        ),
        (b'["x"]', "test.jsonl line 2 is not a JSON object"),
        (b'{"question": "x", "choices": ["a", "b"]}', "test.jsonl line 2: gold is not in every line"),
    ],
)
def test_a_bad_line_is_named(line: bytes, sentence: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "choice.yaml").write_text(CHOICE, encoding="utf-8")
    (tmp_path / "train.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    first = (folder / "test.jsonl").read_bytes().splitlines()[0]
    (tmp_path / "test.jsonl").write_bytes(first + b"\n" + line + b"\n")
    refused(own("choice"), tmp_path, sentence)


@pytest.mark.parametrize(
    ("name", "context", "sentence"),
    [
        ("choice", 2, "own_choice:0 has an answer of "),
        ("choice", 64, None),
        ("extraction", 6, "6 new tokens leave no room for a prompt in model.context = 6"),
        ("extraction", 7, None),
    ],
)
def test_an_answer_must_fit_the_context(name: str, context: int, sentence: str | None, folder: Path) -> None:
    items = file_items(own(name), folder)
    if sentence is None:
        check_room(own(name), items, TOKENIZER, context)
        return
    with pytest.raises(InputError, match=sentence):
        check_room(own(name), items, TOKENIZER, context)


def test_settings_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    refused(own("choice", metric="exact_match"), folder, "metric = 'exact_match' is no mean over items of")
    refused(own("last_word", metric="perplexity"), folder, "metric = 'perplexity' is no mean over items of")
    refused(Task(name="x", kind="harness", task="own_choise"), folder, "task = 'own_choise' is none of lm-evaluation-h")
    refused(Task(name="x", kind="harness", task="/x"), folder, "task = '/x' is none of lm-evaluation-harness")
    (tmp_path / "choice.yaml").write_text(CHOICE, encoding="utf-8")
    (tmp_path / "train.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    (tmp_path / "test.jsonl").write_text("\n", encoding="utf-8")
    refused(own("choice"), tmp_path, "test.jsonl holds no documents")
    for given_settings, words in (
        ({}, "which needs exactly one of file, task"),
        ({"file": "a.yaml", "task": "b"}, "which gives file and task but needs exactly one"),
        ({"task": "b", "stop": ["."]}, "takes no stop"),
    ):
        with pytest.raises(ValueError, match=words):
            Task.model_validate({"name": "x", "kind": "harness", **given_settings})
