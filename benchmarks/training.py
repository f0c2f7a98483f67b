"""How fast a trial trains, beside its peers, on one GPU: `python -m benchmarks.training [--shapes NAME ...]`.

Peers (`benchmarks/peers.py`): a plain torch loop over transformers' Qwen3, eager and compiled, and over a hand-written
GPT-2, compiled; transformers' Trainer; the project's loop alone, the same through DeepSpeed as a trial runs it, and
that in a Ray Train worker, with `training.fast` and in two passes a step. Each is a process of its own, one after
another on the same card, compile caches empty at the start. MFU counts the model's FLOPs in closed form
(`sharelm.closed_form.footprint`) against the card's measured matrix product and against 990 TFLOP/s. Prints a table and
ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.plain import GPU
from benchmarks.runs import SCHEMES, SETTINGS, study_of

DATASHEET_TFLOPS = 990
PEERS = ("eager", "compiled", "gpt2", "trainer", "loop", "deepspeed", "ray", "fast", "two-passes")
OURS = ("loop", "deepspeed", "ray")
FITTING = ("eager", "compiled", "gpt2", "trainer", "deepspeed")
ROWS = {  # what is measured of each shape
    "124M": [(peer, "independent") for peer in PEERS] + [(peer, "albert") for peer in OURS],
    # a batch at which whole fp32 logits fit beside all that eager layers keep
    "124M-small-batch": [(peer, "independent") for peer in FITTING],
    "355M": [(peer, "independent") for peer in PEERS] + [(peer, "albert") for peer in OURS],
    "355M-small-batch": [(peer, "independent") for peer in FITTING],
    "study": [
        *((peer, "independent") for peer in ("gpt2", "loop", "fast")),
        *(("deepspeed", scheme) for scheme in SCHEMES),
        ("equal", "cycle"),
    ],
    "study-12k": [("deepspeed", "independent")],
    "tiny": [(peer, "independent") for peer in (*PEERS, "equal")],
}


def measure(peer: str, shape: str, scheme: str, cache: str) -> dict[str, Any]:
    """What the peer's process says; what went wrong where it fails."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    command = [sys.executable, "-m", "benchmarks.peers", peer, shape, scheme]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def line(row: dict[str, Any], ceiling: float | None) -> str:
    """A row of the table."""
    head = f"{row['shape']:16} {row['scheme']:12} {row['peer']:10}"
    if "error" in row:
        return f"{head} {row['error']}"
    if "largest_difference_nats" in row:
        return (
            f"{head} losses ({row['first']:.3f} to {row['last']:.3f}) differ from eager mode's by at most "
            f"{row['largest_difference_nats']:.4f} nats, {row['mean_difference_of_last_50_nats']:+.4f} in the last 50 "
            f"(two eager attentions: {row['largest_difference_of_eager_attentions_nats']:.4f}); gradients from fp32's "
            f"by {row['largest_gradient_error']:.4f} (eager mode's: {row['largest_gradient_error_eager']:.4f})"
        )
    text = f"{head} {row['tokens_per_second']:12,.0f}"
    text += f" {row['tflops'] / ceiling:7.1%} {row['tflops'] / DATASHEET_TFLOPS:7.1%}" if ceiling else " " * 16
    text += f" {row['peak_bytes'] / 2**30:9.2f} {row['first_step_seconds']:11.1f}"
    return text + (f" {row['again_seconds']:6.2f}" if "again_seconds" in row else "")


def main() -> None:
    """Measure every row of these shapes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(ROWS), default=[shape for shape in ROWS if shape != "tiny"])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="sharelm-compiled-") as cache:
        card = measure("ceilings", "tiny", "independent", cache) if GPU else {}
        print(json.dumps(card))
        ceiling = card.get("matrix_tflops")
        print(
            f"{'shape':16} {'scheme':12} {'peer':10} {'tokens/s':>12} {'MFU':>7} {'of 990':>7} {'peak GiB':>9} "
            f"{'first step s':>11} {'next':>5}"
        )
        for shape in options.shapes:
            for peer, scheme in ROWS[shape]:
                row = {"shape": shape, "scheme": scheme, "peer": peer} | measure(peer, shape, scheme, cache)
                if "tokens_per_second" in row:
                    _, trial = study_of(SETTINGS[shape], scheme)
                    flops = trial.arm.footprint.training_flops_per_token
                    row["tflops"] = row["tokens_per_second"] * flops / 1e12
                rows.append(row)
                print(line(row, ceiling), flush=True)
    print(json.dumps({"benchmark": "training", "card": card, "rows": rows}))


if __name__ == "__main__":
    main()
