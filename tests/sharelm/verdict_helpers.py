"""Studies and evidence for the verdict's tests."""

import tomllib
from pathlib import Path

import pyarrow as pa

from sharelm.study import expand
from sharelm.study.load import study_from_tree
from sharelm.tables import TABLES
from sharelm.tables.rows import Finding, rows_of
from sharelm.verdict import decide
from sharelm.words import spoken

QUICKSTART = Path(__file__).parents[1] / "study.toml"
LOSSES = {  # outcome: difference, interval
    "better": (-0.10, -0.12, -0.08),
    "not_worse": (0.020, 0.005, 0.035),
    "worse": (0.300, 0.280, 0.320),
    "not_shown": (0.030, -0.011, 0.071),
}


def study_of(variants=("cycle",), gates=None, workloads=("chat",)):
    tree = tomllib.loads(QUICKSTART.read_text())
    tree["variant"] = [variant for variant in tree["variant"] if variant["name"] in variants]
    tree["cost"]["workload"] = [tree["cost"]["workload"][0] | {"name": name} for name in workloads]
    tree["rollout"] = {
        "proof_of_concept": {"kpis": ["accuracy"]},
        "important_workloads": {"kpis": ["accuracy", "inference_cost"], "seeds": 2, "training_tokens": 1000},
        "everywhere": {
            "kpis": ["accuracy", "inference_cost", "upkeep"],
            "seeds": 3,
            "training_tokens": 5000,
            "axes": ["parameters"],
        },
    } | (gates or {})
    return study_from_tree(tree, "test")


STUDY = study_of()


def compared(study=STUDY, seeds=3, task="not_worse", error=0.0, **losses):
    """One loss and one task comparison an axis; `depth="worse"` sets the loss's outcome there."""
    rows = []
    for pair in expand(study).comparisons:
        outcome = losses.get(f"{pair.variant}_{pair.axis}", losses.get(pair.axis, "not_worse"))
        shown = outcome is not None
        difference, low, high = LOSSES[outcome] if shown else (None, None, None)
        common = {
            "variant": pair.variant,
            "twin": pair.twin,
            "axis": pair.axis,
            "axis_relative_error": error,
            "domain": "all",
            "seeds": seeds if shown else 0,
            "documents": 100 if shown else 0,
        }
        rows.append(
            common
            | {
                "task": "held_out",
                "metric": "loss_nats_per_token",
                "difference": difference,
                "interval_low": low,
                "interval_high": high,
                "confidence": 0.9875,
                "standard_error_seeds": 0.004 if seeds > 1 else None,
                "standard_error_documents": 0.002,
                "degrees_of_freedom_documents": 99.0,
                "margin": 0.05,
                "outcome": outcome or "not_shown",
            }
        )
        rows.append(
            common
            | {
                "task": "last_word",
                "metric": "accuracy",
                "difference": -0.1,
                "interval_low": -0.12,
                "interval_high": -0.08,
                "confidence": 0.95,
                "margin": 0.02,
                "outcome": task,
            }
        )
    return pa.Table.from_pylist(rows, schema=TABLES["comparisons"])


def trained(study=STUDY, seeds=(0, 1, 2), diverged=(), **variants):
    """One trial an arm and seed; keyword arguments are columns of the variants' rows."""
    rows = []
    for arm in expand(study).arms:
        for seed in seeds:
            row = {
                "trial": f"{arm.name}.s{seed}",
                "arm": arm.name,
                "seed": seed,
                "role": arm.role,
                "status": "diverged" if (arm.name, seed) in diverged else "done",
                "error": "loss is nan at step 7" if (arm.name, seed) in diverged else None,
                "tokens": 9000,
                "workers": 1,
                "device": "H200",
                "precision": "bf16",
                "loss_spikes": 5 if arm.role != "variant" else 0,
                "training_cost": 10.0 + seed,
                "weights_bytes": 600 if arm.role == "variant" else 1000,
            }
            rows.append(row | (variants if arm.role == "variant" else {}))
    return pa.Table.from_pylist(rows, schema=TABLES["trials"])


def served(study=STUDY, workloads=("chat",), **variants):
    """One cost row an arm and workload; a value may be a dict by workload."""
    rows = []
    for arm in expand(study).arms:
        for workload in workloads:
            row = {
                "arm": arm.name,
                "seed": 0,
                "workload": workload,
                "device": "H200",
                "precision": "bf16",
                "peak_bytes": 700 if arm.role == "variant" else 1000,
                "cost_per_1m_tokens": 2.0,
            }
            given = {k: v[workload] if isinstance(v, dict) else v for k, v in variants.items()}
            rows.append(row | (given if arm.role == "variant" else {}))
    return pa.Table.from_pylist(rows, schema=TABLES["costs"])


def verdict(study=STUDY, comparisons=None, trials=None, costs=None):
    return decide(
        expand(study),
        compared(study) if comparisons is None else comparisons,
        trained(study) if trials is None else trials,
        served(study) if costs is None else costs,
    )


def only(found, name, variant="cycle"):
    rows = [row for row in rows_of(Finding, found) if (row.name, row.variant) == (name, variant)]
    assert len(rows) == 1
    return spoken(rows[0])
