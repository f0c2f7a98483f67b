"""The scorer beside lm-evaluation-harness's own `hf` model at its automatic batch size: agreement and speed.

    python -m benchmarks.scoring --model FOLDER --data DATA [--tasks NAME ...] [--most N] [--device cuda] [--out DIR]

`FOLDER` is a Hugging Face folder, `DATA` what `benchmarks.tasks` reads. Both sides get the same requests as texts and
give log-likelihoods; tokenizing, batching and, for the harness, finding its batch size are timed. Each warms up on the
first documents of a task. The harness's metrics are computed of both sides' answers by the same function.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.tasks import write_tasks
from sharelm.evaluation.folder import folder_scorer
from sharelm.evaluation.harness import HarnessItem, harness_items, harness_rows
from sharelm.evaluation.scorer import Scorer

WARM_UP = 32  # documents
Answers = list[tuple[float, bool]]
Answer = Callable[[list[tuple[str, str]]], Answers]


class Given(Scorer):
    """Answers that were given before, so that the harness makes its metrics of them."""

    def __init__(self, answers: Answers, counts: Callable[[Any], list[int]]) -> None:
        self._answers, self.count_tokens = answers, counts

    def loglikelihood(self, requests: Any) -> Answers:
        """The answers, in order."""
        assert len(requests) == len(self._answers)
        return self._answers


def requests_of(items: list[HarnessItem]) -> list[tuple[str, str]]:
    """All requests of these items, in order."""
    return [pair for item in items for pair in item.arguments]


def timed(answer: Answer, items: list[HarnessItem]) -> tuple[Answers, float]:
    """The answers, and the seconds that they took."""
    answer(requests_of(items[:WARM_UP]))
    asked = requests_of(items)
    start = time.perf_counter()
    found = answer(asked)
    return found, time.perf_counter() - start


def compared(name: str, items: list[HarnessItem], ours: Answer, theirs: Answer, counts: Any) -> dict[str, Any]:
    """The figures of one task."""
    (own, own_seconds), (other, other_seconds) = timed(ours, items), timed(theirs, items)
    difference = [abs(a - b) / abs(b) for (a, _), (b, _) in zip(own, other, strict=True)]
    rows = [harness_rows(Given(answers, counts), items) for answers in (own, other)]
    metrics = [[json.loads(row["metrics_json"]) for row in side] for side in rows]
    names = [metric for metric in metrics[0][0] if metric.startswith("acc")]
    return {
        "task": name,
        "documents": len(items),
        "requests": len(own),
        "seconds": own_seconds,
        "harness_seconds": other_seconds,
        "ratio": other_seconds / own_seconds,
        "largest_relative_difference": max(difference),
        "differences_above_1e-4": sum(one > 1e-4 for one in difference),
        "greedy_differs": sum(a != b for (_, a), (_, b) in zip(own, other, strict=True)),
        "documents_that_differ": sum(a["correct"] != b["correct"] for a, b in zip(*rows, strict=True)),
        "accuracy": {
            m.split(",")[0]: [math.fsum(one[m] for one in side) / len(items) for side in metrics] for m in names
        },
    }


def together(name: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a group's tasks as one; accuracies are the means of the tasks', as the harness has them."""
    sums = ("documents", "requests", "seconds", "harness_seconds", "differences_above_1e-4")
    found: dict[str, Any] = {
        key: sum(part[key] for part in parts) for key in (*sums, "greedy_differs", "documents_that_differ")
    }
    found["ratio"] = found["harness_seconds"] / found["seconds"]
    found["largest_relative_difference"] = max(part["largest_relative_difference"] for part in parts)
    metrics = parts[0]["accuracy"]
    found["accuracy"] = {
        m: [sum(part["accuracy"][m][side] for part in parts) / len(parts) for side in (0, 1)] for m in metrics
    }
    return {"task": name, **found}


def main() -> None:
    """Score every task on both sides, print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--tasks", nargs="+", default=["lambada_openai", "hellaswag", "piqa", "arc_easy", "winogrande", "blimp"]
    )
    parser.add_argument("--most", type=int, help="documents of each task")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--batch", default="auto", help="the harness's batch size")
    parser.add_argument("--tokens-per-batch", type=int, default=65536)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    precision = getattr(torch, options.precision)
    scorer = folder_scorer(options.model, options.device, precision, options.tokens_per_batch)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=precision).to(options.device)
    peer = HFLM(
        pretrained=model,
        tokenizer=AutoTokenizer.from_pretrained(options.model),
        batch_size=options.batch,
        device=options.device,
    )

    def theirs(asked: list[tuple[str, str]]) -> Answers:
        instances = [Instance("loglikelihood", {}, pair, at, ("x", at, 1)) for at, pair in enumerate(asked)]
        return peer.loglikelihood(instances, disable_tqdm=True)

    results: list[dict[str, Any]] = []
    heads = f"{'task':16} {'requests':>9} {'s':>8} {'hf s':>8} {'ratio':>6} {'largest':>9} {'>1e-4':>6} {'greedy':>6}"
    print(f"{heads}  accuracy, hf's")
    with tempfile.TemporaryDirectory() as folder:
        for wanted in options.tasks:
            parts = []
            for task in write_tasks(options.data, Path(folder), [wanted], options.most):
                items = list(harness_items(task, Path(folder)))
                parts.append(compared(task.name, items, scorer.loglikelihood, theirs, scorer.count_tokens))
            row = together(wanted, parts) if len(parts) > 1 else parts[0]
            results.append(row)
            print(
                f"{row['task']:16} {row['requests']:9} {row['seconds']:8.2f} {row['harness_seconds']:8.2f} "
                f"{row['ratio']:6.2f} {row['largest_relative_difference']:9.1e} {row['differences_above_1e-4']:6} "
                f"{row['greedy_differs']:6}  "
                + "  ".join(f"{metric} {own:.4f} {other:.4f}" for metric, (own, other) in row["accuracy"].items()),
                flush=True,
            )
    device = (
        torch.cuda.get_device_name()
        if options.device == "cuda"
        else f"{platform.processor()} ({torch.get_num_threads()} threads)"
    )
    line = json.dumps(
        {
            "benchmark": "scoring",
            "device": device,
            "precision": options.precision,
            "torch": torch.__version__,
            "tasks": results,
        }
    )
    print(line)
    if options.out is not None:
        (options.out / f"scoring-{options.precision}.json").write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
