"""A study small enough for a test, and a corpus of random tokens for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sharelm.study import Study
from sharelm.study.load import study_from_tree

TREE: dict[str, Any] = {
    "study": {"name": "small", "seeds": [0]},
    "data": {"vocabulary": 300, "source": [{"uri": "text.txt", "domain": "text"}]},
    "model": {"width": 32, "depth": 4, "heads": 4, "kv_heads": 2, "feed_forward": 64, "context": 16},
    "variant": [{"name": "cycle", "scheme": "cycle", "blocks": 2}],
    "training": {
        "tokens": 16 * 8 * 6,
        "tokens_per_step": 16 * 8,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "checkpoint_steps": 2,
        "device": "cpu",
        "zero_stage": 0,
    },
    "evaluation": {"task": [{"name": "held_out", "kind": "bits_per_byte"}]},
    "cost": {
        "price_per_hour": 1.0,
        "assumed_tflops": 0.05,
        "workload": [{"name": "chat", "batch": 2, "prompt_tokens": 8, "new_tokens": 4, "repeats": 3}],
    },
    "kpi": {
        "accuracy": {"loss_margin_nats": 0.05},
        "inference_cost": {"memory_ratio_max": 0.8, "cost_per_token_ratio_max": 1.1},
        "upkeep": {"training_cost_ratio_max": 1.1, "stored_bytes_ratio_max": 0.7},
    },
    "rollout": {
        "proof_of_concept": {"kpis": ["accuracy"]},
        "important_workloads": {"kpis": ["accuracy", "inference_cost"], "seeds": 2},
        "everywhere": {"kpis": ["accuracy", "inference_cost", "upkeep"], "seeds": 3},
    },
}


def small_study(**training: Any) -> Study:
    tree = {**TREE, "training": {**TREE["training"], **training}}
    return study_from_tree(tree, "small.toml")


class RandomRows:
    """Packed rows of random tokens: what training reads, without a corpus behind it."""

    def __init__(self, rows: int = 40, context: int = 16, vocabulary: int = 300) -> None:
        self._rows = np.random.default_rng(7).integers(0, vocabulary, (rows, context + 1))

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self._rows[indices]


class RandomCorpus:
    """A corpus with random rows only."""

    tokenizer_json = "{}"

    def training(self, context: int) -> RandomRows:
        return RandomRows(context=context)


def text_folder(folder: Path) -> Path:
    """A text file of a few hundred short documents, for the small study."""
    random = np.random.default_rng(3)
    words = ["stone", "river", "light", "seven", "green", "house", "never", "under", "paper", "music"]
    lines = [" ".join(random.choice(words, 30)) + f" {i}." for i in range(400)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder
