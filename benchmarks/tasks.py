"""Public evaluation sets from a folder of their files, in the fields that lm-evaluation-harness's own tasks read.

    python -m benchmarks.tasks DATA OUT

`DATA` holds `llm-foundry-eval/`, `hellaswag/`, `piqa/` and `blimp/` as their authors publish them. `OUT` gets a JSONL
file for each task. HellaSwag's file was prepared by its author for llama.cpp: the second half of a context
is told from the first by its lower-case start, which is how the original's two fields differ.
"""

from __future__ import annotations

import bz2
import json
import lzma
import sys
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sharelm.study.evaluation import Task

Row = dict[str, Any]
FOUNDRY = "llm-foundry-eval"


def _lines(path: Path) -> Iterator[Row]:
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "rt", encoding="utf-8") as text:
        yield from map(json.loads, filter(str.strip, text))


def lambada(data: Path) -> Iterator[Row]:
    """LAMBADA as OpenAI published it."""
    for row in _lines(data / FOUNDRY / "language_understanding" / "lambada_openai.jsonl.xz"):
        yield {"text": f"{row['context']} {row['continuation']}"}


def hellaswag(data: Path) -> Iterator[Row]:
    """HellaSwag's validation split."""
    text = bz2.decompress((data / "hellaswag" / "hellaswag_val_full.txt.bz2").read_bytes()).decode("latin-1")
    lines = iter(text.splitlines())
    for line in lines:
        label, context = line.split(": ", 1)
        head, found, tail = context.rpartition(". ")
        lower = bool(found) and tail[:1].islower()
        yield {
            "activity_label": label,
            "ctx_a": f"{head}." if lower else context,
            "ctx_b": tail if lower else "",
            "label": next(lines).strip(),
            "endings": list(islice(lines, 4)),
        }


def piqa(data: Path) -> Iterator[Row]:
    """PIQA's validation split."""
    labels = (data / "piqa" / "valid-labels.lst").read_text(encoding="utf-8").split()
    for row, label in zip(_lines(data / "piqa" / "valid.jsonl"), labels, strict=True):
        yield {"goal": row["goal"], "sol1": row["sol1"], "sol2": row["sol2"], "label": int(label)}


def arc_easy(data: Path) -> Iterator[Row]:
    """The easy questions of ARC's test split."""
    for row in _lines(data / FOUNDRY / "world_knowledge" / "arc_easy.jsonl"):
        letters = list("ABCDEFG"[: len(row["choices"])])
        yield {
            "question": row["query"].removeprefix("Question: "),
            "choices": {"text": row["choices"], "label": letters},
            "answerKey": letters[row["gold"]],
        }


def winogrande(data: Path) -> Iterator[Row]:
    """WinoGrande's validation split."""
    for row in _lines(data / FOUNDRY / "language_understanding" / "winogrande.jsonl"):
        first, second = row["context_options"]
        same = next(at for at in range(len(first) + 1) if first[at : at + 1] != second[at : at + 1])
        same = first.rfind(" ", 0, same) + 1  # options are whole words
        yield {
            "sentence": f"{first[:same]}_ {row['continuation']}",
            "option1": first[same:],
            "option2": second[same:],
            "answer": str(row["gold"] + 1),
        }


def blimp(data: Path) -> dict[str, list[Row]]:
    """The minimal pairs of each of BLiMP's 67 phenomena, by the name of its task."""
    found = {}
    with zipfile.ZipFile(data / "blimp" / "BLiMP.zip") as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(".jsonl") or Path(name).name.startswith("."):
                continue
            rows = map(json.loads, archive.read(name).decode("utf-8").splitlines())
            pairs = [{"sentence_good": row["sentence_good"], "sentence_bad": row["sentence_bad"]} for row in rows]
            found[f"blimp_{Path(name).stem}"] = pairs
    return found


TASKS = {  # by the harness's name: the rows, the split it scores, the metric that is reported most
    "lambada_openai": (lambada, "test", "acc"),
    "hellaswag": (hellaswag, "validation", "acc_norm"),
    "piqa": (piqa, "validation", "acc_norm"),
    "arc_easy": (arc_easy, "test", "acc"),
    "winogrande": (winogrande, "validation", "acc"),
}


def write_tasks(data: Path, out: Path, names: list[str] | None = None, most: int | None = None) -> list[Task]:
    """Write these tasks (all, if None; `blimp` stands for its 67), at most so many documents of each."""
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for name, (rows, split, metric) in TASKS.items():
        if names is None or name in names:
            found.append(_written(out, name, split, metric, list(islice(rows(data), most))))
    if names is None or "blimp" in names:
        found += [_written(out, name, "train", "acc", pairs[:most]) for name, pairs in blimp(data).items()]
    return found


def _written(out: Path, name: str, split: str, metric: str, rows: list[Row]) -> Task:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return Task(name=name, kind="harness", task=name, data_files={split: f"{name}.jsonl"}, metric=metric)


if __name__ == "__main__":
    for written in write_tasks(Path(sys.argv[1]), Path(sys.argv[2])):
        print(written.name)
