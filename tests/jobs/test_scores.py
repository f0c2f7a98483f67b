"""Scoring a trial as a cluster's task does, without a cluster: tasks of every kind, in shards, to comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jobs.context import Context
from jobs.measure import score_model
from jobs.nodes import Resources
from jobs.prepare import prepare_data, read_request
from jobs.steps import study_steps
from sharelm.artefact import WEIGHTS, commit_model
from sharelm.data import open_corpus
from sharelm.machine import Machine
from sharelm.model import Decoder, save_weights
from sharelm.statistics.compare import compare
from sharelm.study import expand
from sharelm.tasks import TASK_KINDS
from tests.jobs.studies import write_study

OPEN = [{"query": f"{number}. The river is", "answer": ["green", "seven"]} for number in range(7)]
TASKS: list[dict[str, Any]] = [
    {"name": "held_out", "kind": "bits_per_byte", "shards": 2},
    {"name": "last", "kind": "cloze", "max_items": 5},
    {"name": "quiz", "kind": "multiple_choice", "file": "questions.jsonl", "shards": 3},
    {"name": "open", "kind": "generation", "file": "open.jsonl", "max_new_tokens": 5, "stop": ["."], "shards": 2},
    {"name": "own", "kind": "harness", "file": "own.yaml", "num_fewshot": 1, "shards": 2},
]
OWN = """
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_choice: choices
doc_to_target: gold
"""


def test_every_kind_of_task_is_scored_in_shards_and_compared(tmp_path: Path) -> None:
    assert {task["kind"] for task in TASKS} == TASK_KINDS.keys()
    path = write_study(tmp_path, evaluation={"task": TASKS}, data={"source": [{"uri": "long.jsonl", "domain": "text"}]})
    lines = (tmp_path / "text.txt").read_text(encoding="utf-8").splitlines()
    texts = [json.dumps({"text": "\n".join(lines[at : at + 20])}) for at in range(0, len(lines), 20)]
    (tmp_path / "long.jsonl").write_text("\n".join(texts), encoding="utf-8")
    (tmp_path / "open.jsonl").write_text("\n".join(map(json.dumps, OPEN)), encoding="utf-8")
    (tmp_path / "own.yaml").write_text(OWN, encoding="utf-8")
    request = read_request(path, str(tmp_path / "store"))
    study, store = request.study, request.store
    data, items = prepare_data(request, SimpleNamespace(stage=lambda text: None))  # type: ignore[arg-type]
    tokenizer = open_corpus(store, data).tokenizer_json
    board = SimpleNamespace(span=SimpleNamespace(remote=lambda *span: None))
    have = Resources(False, cpus_per_worker=1, evaluation_cpus=1, cost_cpus=1, parallel_groups=1)
    context = Context(study, store.uri, "of a store far away", Machine("cpu", "fp32", "a CPU"), have, board)
    for step in study_steps(expand(study), context, tmp_path):
        if step.kind == "trial":
            arm, seed = step.payload.arm, step.payload.seed
            save_weights(Decoder(arm.shape, arm.sharing).initialise(seed), tmp_path / WEIGHTS)
            ((_, model),) = step.makes
            commit_model(store, study.name, model, tmp_path / WEIGHTS, tokenizer, {"kind": "drawn"}, {})
        elif step.kind == "score":
            score_model._function(context, step, items[step.payload.task.name])

    scores = store.read("scores", study.name)
    rows = scores.to_pylist()
    assert len(rows) == len(expand(study).trials) * sum(map(len, items.values()))
    for row in rows:
        kind = TASK_KINDS[row["kind"]]
        assert (row["correct"] is not None) == kind.judged
        assert (row["nll_nats"] is None) == kind.generates
    assert len({row["document"] for row in rows if row["task"] == "open"}) == len(OPEN)
    found = {
        (row["task"], row["metric"]) for row in compare(expand(study), scores).to_pylist() if row["domain"] == "all"
    }
    assert found == {(task.name, metric.name) for task in study.evaluation.task for metric in task.traits.metrics}
