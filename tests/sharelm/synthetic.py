"""Consistent tables of a study that was never run: plausible figures with known differences, for tests."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pyarrow as pa

from sharelm.statistics.compare import compare
from sharelm.statistics.worth import worth
from sharelm.study import Arm, Plan, Study, Trial, expand
from sharelm.tables import TABLES
from sharelm.verdict import decide
from sharelm.words import Line, headline

DOMAINS = ("prose", "code")
DEVICE = "Example CPU @ 2.0 GHz"
DOCUMENTS = 30


def planted_loss(arm: Arm) -> float:
    """Nats per token that this arm ends at: falls with stored parameters and with depth."""
    return 4.2 - 0.07 * math.log(arm.footprint.stored_parameters / 1e5) - 0.04 * math.log(arm.sharing.depth)


def seeded(trial: Trial) -> float:
    """Planted loss of one trial: seeds lie 0.004 nats apart."""
    return planted_loss(trial.arm) + 0.004 * (trial.seed % 7)


def _names(trial: Trial) -> dict[str, Any]:
    return {"trial": trial.name, "arm": trial.arm.name, "seed": trial.seed}


def _resolved(study: Study, trial: Trial) -> dict[str, Any]:
    return {
        "seed": trial.seed,
        "model": {"width": study.model.width, "feed_forward": trial.arm.shape.feed_forward},
        "sharing": {
            "attention": list(trial.arm.sharing.attention),
            "feed_forward": list(trial.arm.sharing.feed_forward),
        },
        "training": trial.arm.training(study.training).model_dump(mode="json"),
        "deepspeed": {"zero_optimization": {"stage": study.training.zero_stage}, "gradient_clipping": 1.0},
    }


def _trial(study: Study, trial: Trial, error: str | None) -> dict[str, Any]:
    size = trial.arm.footprint
    seconds = trial.arm.training_flops / 40e9
    figures = {
        "final_loss_nats": seeded(trial) - 0.05,
        "gradient_norm_p50": 0.82,
        "gradient_norm_p95": 1.93,
        "gradient_norm_max": 7.41,
    }
    return {
        **_names(trial),
        "role": trial.arm.role,
        "status": "diverged" if error else "done",
        "error": error,
        "attention_schedule": list(trial.arm.sharing.attention),
        "feed_forward_schedule": list(trial.arm.sharing.feed_forward),
        "stored_parameters": size.stored_parameters,
        "materialised_parameters": size.materialised_parameters,
        "embedding_parameters": size.embedding_parameters,
        "training_flops_per_token": size.training_flops_per_token,
        "tokens": trial.arm.tokens,
        "epochs": trial.arm.tokens / FACTS["data"]["training_tokens"],
        "steps": trial.arm.training(study.training).steps,
        "workers": study.training.workers,
        "device": DEVICE,
        "precision": "fp32",
        **(dict.fromkeys(figures) if error else figures),
        "loss_spikes": trial.seed // 4,
        "nonfinite_steps": 1 if error else 0,
        "training_seconds": seconds,
        "tokens_per_second": trial.arm.tokens / seconds,
        "training_cost": seconds / 3600 * study.cost.price_per_hour,
        "currency": study.cost.currency,
        "resumes": 0,
        "learning_rate_halvings": 0,
        "weights_bytes": None if error else 4 * size.stored_parameters,
        "resolved_json": json.dumps(_resolved(study, trial)),
    }


def _steps(study: Study, trial: Trial, number: int, rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    end, start = seeded(trial), math.log(study.data.vocabulary)
    for step in range(1, number + 1):
        done = step / number
        loss = end + (start - end) * math.exp(-9 * done) + rng.gauss(0, 0.05)
        rows.append(
            {
                **_names(trial),
                "training_step": step,
                "tokens": round(done * trial.arm.tokens),
                "loss_nats": loss,
                "learning_rate": study.training.learning_rate,
                "gradient_norm": 0.8,
                "tokens_per_second": 12_000.0,
            }
        )
    return rows


def _scores(study: Study, trial: Trial, rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for task in study.evaluation.task:
        for number in range(DOCUMENTS):
            domain = DOMAINS[number % len(DOMAINS)] if task.traits.reads == "documents" else task.name
            scored = task.traits.judged
            rows.append(
                {
                    **_names(trial),
                    "task": task.name,
                    "kind": task.kind,
                    "domain": domain,
                    "document": f"document-{number}",
                    "item": 0,
                    "nll_nats": None
                    if task.traits.generates
                    else (seeded(trial) + rng.gauss(0, 0.01)) * (1 if scored else 100),
                    "tokens": 1 if scored else 100,
                    "bytes": 5 if scored else 350,
                    "correct": float(rng.random() < 0.3) if scored else None,
                }
            )
    return rows


def _costs(study: Study, trial: Trial) -> list[dict[str, Any]]:
    size, rows = trial.arm.footprint, []
    for workload in study.cost.workload:
        decode = size.materialised_parameters / 2e8 * (1 + workload.batch / 20)
        prefill = size.prefill_flops_per_token(workload.prompt_tokens) * workload.prompt_tokens * workload.batch / 4e7
        seconds = (prefill + decode * workload.new_tokens) / 1e3
        speed = workload.batch * workload.new_tokens / seconds
        weights = size.weight_bytes(4)
        kv = size.kv_bytes_per_token(4) * workload.batch * (workload.prompt_tokens + workload.new_tokens)
        rest = 1_500_000 + 4 * workload.batch * study.data.vocabulary
        rows.append(
            {
                **_names(trial),
                "workload": workload.name,
                "device": DEVICE,
                "precision": "fp32",
                "batch": workload.batch,
                "prompt_tokens": workload.prompt_tokens,
                "new_tokens": workload.new_tokens,
                "prefill_ms_p50": prefill,
                "prefill_ms_p95": prefill * 1.2,
                "decode_ms_p50": decode,
                "decode_ms_p95": decode * 1.3,
                "generated_tokens_per_second": speed,
                "load_seconds": 0.02,
                "disk_bytes": weights,
                "weights_bytes": weights,
                "kv_bytes": kv,
                "rest_bytes": rest,
                "peak_bytes": weights + kv + rest,
                "cost_per_1m_tokens": study.cost.price_per_hour / 3600 / speed * 1e6,
                "currency": study.cost.currency,
            }
        )
    return rows


def _table(name: str, rows: list[dict[str, Any]], study: Study) -> pa.Table:
    table = pa.Table.from_pylist(rows, schema=TABLES[name])
    for column, value in (("study", study.name), ("step", "0" * 16)):
        table = table.append_column(column, pa.array([value] * table.num_rows, pa.string()))
    return table


def synthetic_tables(
    asked: Study | Plan,
    *,
    steps: int = 100,
    costs: bool = True,
    diverged: dict[str, str] | None = None,
    missing: frozenset[str] = frozenset(),
) -> dict[str, pa.Table]:
    """The tables: planted trials, steps, scores and costs; the others as they follow from those.

    `diverged` maps a trial to its error, `missing` names trials that never ran; neither has scores or costs.
    `steps` is rows a trial in the steps table; without `costs` that table is empty.
    """
    plan = asked if isinstance(asked, Plan) else expand(asked)
    study, rng, diverged = plan.study, random.Random(0), diverged or {}
    ran = [trial for trial in plan.trials if trial.name not in missing]
    done = [trial for trial in ran if trial.name not in diverged]
    rows = {
        "trials": [_trial(study, trial, diverged.get(trial.name)) for trial in ran],
        "steps": [row for trial in ran for row in _steps(study, trial, steps, rng)],
        "scores": [row for trial in done for row in _scores(study, trial, rng)],
        "costs": [row for trial in done for row in _costs(study, trial)] if costs else [],
    }
    tables = {name: _table(name, found, study) for name, found in rows.items()}
    tables["comparisons"] = compare(plan, tables["scores"])
    tables["sharing_worth"] = worth(plan, tables["scores"])
    tables["verdicts"] = decide(plan, tables["comparisons"], tables["trials"], tables["costs"])
    return tables


def headline_of(asked: Study | Plan, tables: dict[str, pa.Table]) -> list[Line]:
    """The five lines that the verdict gives for these tables."""
    return headline(asked.study if isinstance(asked, Plan) else asked, tables["verdicts"])


FACTS: dict[str, Any] = {
    "started": "2026-01-02 03:04 UTC",
    "version": "0.1.0",
    "device": DEVICE,
    "wall_seconds": 251.0,
    "compute_seconds": 195.0,
    "seconds": {"training": 160.0, "evaluation": 30.0},
    "versions": {"python": "3.11.2", "torch": "2.13.0"},
    "data": {
        "training_tokens": 812_345,
        "bytes_per_token": 3.41,
        "near_duplicates_dropped": 17,
        "domains": {
            "prose": {
                "training": {"documents": 401, "bytes": 1_500_000, "tokens": 440_000},
                "validation": {"documents": 44, "bytes": 160_000, "tokens": 47_000},
            },
            "code": {
                "training": {"documents": 310, "bytes": 1_270_000, "tokens": 372_345},
                "validation": {"documents": 36, "bytes": 140_000, "tokens": 41_000},
            },
        },
    },
}
