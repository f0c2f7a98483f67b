"""What a study would train, store and cost, from the study alone: closed forms and one stated assumption."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.show import columns
from sharelm.closed_form.footprint import ELEMENT_BYTES
from sharelm.closed_form.memory import SHARE
from sharelm.errors import InputError
from sharelm.formats import duration, si
from sharelm.sharing.drawing import degrees, draw
from sharelm.study import Arm, Plan, Study, expand, proxied, proxies, timed_pairs
from sharelm.study.memory import needs
from sharelm.study.packing import trials_per_gpu

ARM_COLUMNS = ("arm", "role", "blocks read", "ff width", "stored", "materialised", "checkpoint", "KV bytes/token")


def _precisions(study: Study) -> list[str]:
    """The precisions that the study may run in: both, unless it names a precision or a device."""
    training = study.training
    if training.precision != "auto":
        return [training.precision]
    return {"cpu": ["fp32"], "gpu": ["bf16"], "auto": ["fp32", "bf16"]}[training.device]


def _arm(study: Study, arm: Arm) -> dict[str, Any]:
    context, cost, figures = study.model.context, study.cost, arm.footprint
    stage = 0 if study.training.zero_stage == "auto" else study.training.zero_stage
    muon = study.training.optimizer == "muon"
    seconds = arm.training_flops / (cost.assumed_tflops * 1e12)
    return {
        "arm": arm.name,
        "role": arm.role,
        "attention_schedule": list(arm.sharing.schedule("attention")),
        "feed_forward_schedule": list(arm.sharing.schedule("feed_forward")),
        "degrees": degrees(arm.sharing),
        "drawing": draw(arm.sharing),
        "feed_forward": arm.shape.feed_forward,
        "stored_parameters": figures.stored_parameters,
        "materialised_parameters": figures.materialised_parameters,
        "training_flops_per_token": figures.training_flops_per_token,
        "training_phases": [
            {"fraction": fraction, "flops_per_token": flops} for fraction, flops in figures.training_phases
        ],
        "prefill_flops_per_token": round(figures.prefill_flops_per_token(context)),
        "decode_flops_per_token": figures.decode_flops_per_token(context),
        "kv_bytes_per_token": {p: figures.kv_bytes_per_token(ELEMENT_BYTES[p]) for p in _precisions(study)},
        "weight_bytes_read_per_decoded_token": {
            p: figures.weight_bytes_read_per_decoded_token(ELEMENT_BYTES[p]) for p in _precisions(study)
        },
        "checkpoint_bytes": {p: figures.checkpoint_bytes(stage, ELEMENT_BYTES[p], muon) for p in _precisions(study)},
        "sent_bytes_per_step": {
            p: figures.sent_bytes_per_step(stage, arm.training(study.training).passes(context), ELEMENT_BYTES[p])
            for p in _precisions(study)
        },
        "optimizer_bytes_per_worker": figures.optimizer_bytes(stage, study.training.workers, muon),
        "training_tokens": arm.tokens,
        "training_steps": arm.training(study.training).steps,
        "estimated_training_hours": seconds / study.training.workers / 3600,
        "estimated_training_cost": seconds / 3600 * cost.price_per_hour,
    }


def _memory(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """By precision, at every ZeRO stage: the arm that needs most memory in a worker, its bytes, and their parts."""
    return {
        precision: [
            {"stage": need.stage, "arm": need.arm, "bytes": need.parts.total, **asdict(need.parts)}
            for need in needs(plan.models, plan.study.training, precision)
        ]
        for precision in _precisions(plan.study)
    }


def _tuning(plan: Plan) -> dict[str, Any] | None:
    """The proxies that choose learning rates; None where the study tunes none."""
    study = plan.study
    tune, tried = study.training.tune, proxies(plan)
    if tune is None:
        return None
    seconds = sum(proxy.arm.training_flops for proxy in tried) / (study.cost.assumed_tflops * 1e12)
    short = proxied(study).training
    return {
        "learning_rates": tune.learning_rates,
        "choose": tune.choose,
        "proxies": len(tried),
        "models": len({proxy.arm.model for proxy in tried}),
        "tokens_each": tune.tokens,
        "steps_each": short.steps,
        "warmup_steps": short.warmup_steps,
        "training_tokens": sum(proxy.arm.tokens for proxy in tried),
        "estimated_training_hours": seconds / study.training.workers / 3600,
        "estimated_training_cost": seconds / 3600 * study.cost.price_per_hour,
    }


def _on_a_gpu(plan: Plan) -> dict[str, Any]:
    together, why = trials_per_gpu(plan.models, plan.study.training)
    return {"trials": together, "why": why}


def check_tasks(path: Path, study: Study) -> None:
    """Raise `InputError` where a task's files hold what cannot be asked. What reads them is a process of its own."""
    if all(task.traits.reads == "documents" for task in study.evaluation.task):
        return
    command = [sys.executable, "-m", "jobs.check_tasks", "--study", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["the tasks' files could not be checked"])[-1]
        raise InputError(said.removeprefix("error: "))


def plan_study(study: Study) -> dict[str, Any]:
    """The plan as plain values. FLOPs of prefill and decode are per token at the model's whole context.

    Hours are wall time of the training alone: training FLOPs x tokens over workers x cost.assumed_tflops; money is
    those hours of every worker at cost.price_per_hour. Where the ZeRO stage is "auto" checkpoints, optimizers and
    what is sent are those of stage 0. The total counts the proxies of `tuning` as well.
    """
    plan = expand(study)
    planned = {arm.name: _arm(study, arm) for arm in plan.arms}
    runs, tuning = plan.trials, _tuning(plan)
    work = [planned[trial.arm.name] for trial in runs] + ([tuning] if tuning else [])
    tree = study.tree()
    for part, differs in (("model", "depth"), ("model", "feed_forward"), ("training", "tokens")):  # a twin's own
        del tree[part][differs]
    if tuning:  # an arm's own
        del tree["training"]["learning_rate"]
    return {
        "study": study.name,
        "trials": [trial.labels for trial in runs],
        "arms": list(planned.values()),
        "comparisons": [
            {
                "variant": pair.variant,
                "axis": pair.axis,
                "twin": pair.twin,
                "target": pair.target,
                "reached": pair.reached,
                "relative_error": pair.relative_error,
            }
            for pair in plan.comparisons
        ],
        "measured_when_it_runs": [
            {"variant": variant.name, "axis": "time", "like": twin.name} for variant, twin in timed_pairs(study)
        ],
        "memory": _memory(plan),
        "on_a_gpu": None if study.training.device == "cpu" else _on_a_gpu(plan),
        "tuning": tuning,
        "total": {
            "trials": len(runs),
            "proxies": tuning["proxies"] if tuning else 0,
            **{
                figure: sum(one[figure] for one in work)
                for figure in ("training_tokens", "estimated_training_hours", "estimated_training_cost")
            },
            "currency": study.cost.currency,
            "assumed_tflops": study.cost.assumed_tflops,
            "workers": study.training.workers,
        },
        "shared": {part: tree[part] for part in ("data", "model", "training", "evaluation", "cost", "kpi", "rollout")},
    }


def _settings(part: str, value: Any) -> list[str]:
    """Every setting that is set in this part, as `key = value`; each table inside it takes a line."""
    plain, nested = [], []
    for key, inner in value.items():
        if isinstance(inner, dict):
            nested += _settings(f"{part}.{key}", inner)
        elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
            nested += [line for item in inner for line in _settings(f"{part}.{key}", item)]
        elif inner is not None:
            plain.append(f"{key} = {inner}")
    own = textwrap.fill(", ".join(plain), 116, initial_indent=f"  [{part}] ", subsequent_indent="    ")
    return [own, *nested] if plain else nested


def _schedules(arm: dict[str, Any]) -> str:
    attention, feed_forward = (" ".join(map(str, arm[f"{kind}_schedule"])) for kind in ("attention", "feed_forward"))
    both = attention if attention == feed_forward else f"{attention} | {feed_forward}"
    return f"{both} *" if arm["degrees"] else both


def drawings(plan: dict[str, Any]) -> str:
    """Which depth of each arm reads which block."""
    return "\n\n".join(f"{arm['arm']}\n\n{textwrap.indent(arm['drawing'], '    ')}" for arm in plan["arms"])


def _memory_text(plan: dict[str, Any]) -> str:
    rows = [
        (need["stage"], need["arm"], precision, si(need["bytes"], "B"))
        for precision, stages in plan["memory"].items()
        for need in stages
    ]
    table = columns(rows, ("ZeRO stage", "largest arm", "precision", "a worker holds"))
    stage = plan["shared"]["training"]["zero_stage"]
    taken = f"the least stage that fits {SHARE:.0%} of a worker's memory" if stage == "auto" else f"stage {stage}"
    shares = f"\nOn GPUs, {plan['on_a_gpu']['why']}." if plan["on_a_gpu"] else ""
    return f"{table}\nIt takes {taken}, for all arms.{shares}"


def _tuning_text(plan: dict[str, Any]) -> str:
    tuning = plan["tuning"]
    if tuning is None:
        return "Learning rates are not tuned: every arm learns with training.learning_rate."
    took = duration(tuning["estimated_training_hours"] * 3600)
    return (
        f"Learning rates are tuned ({tuning['choose']}) before the trials: {tuning['models']} models x "
        f"{tuning['learning_rates']} = {tuning['proxies']} proxies\n"
        f"of {tuning['tokens_each']:,} tokens ({tuning['steps_each']} steps, {tuning['warmup_steps']} of warm-up); "
        f"in all {tuning['training_tokens']:,} tokens, {took}, "
        f"{tuning['estimated_training_cost']:,.4f} {plan['total']['currency']}."
    )


def plan_text(plan: dict[str, Any]) -> str:
    """The plan for a reader."""
    total = plan["total"]
    seeds = list(dict.fromkeys(trial["seed"] for trial in plan["trials"]))
    arm_rows = [
        (
            arm["arm"],
            arm["role"],
            _schedules(arm),
            str(arm["feed_forward"]),
            arm["stored_parameters"],
            arm["materialised_parameters"],
            " / ".join(f"{si(size, 'B')} {precision}" for precision, size in arm["checkpoint_bytes"].items()),
            " / ".join(f"{count:,} {precision}" for precision, count in arm["kv_bytes_per_token"].items()),
        )
        for arm in plan["arms"]
    ]
    work_rows = [
        (
            arm["arm"],
            arm["training_flops_per_token"],
            arm["prefill_flops_per_token"],
            arm["decode_flops_per_token"],
            arm["training_tokens"],
            arm["training_steps"],
            duration(arm["estimated_training_hours"] * 3600),
            f"{arm['estimated_training_cost']:,.4f} {total['currency']}",
        )
        for arm in plan["arms"]
    ]
    pair_rows = [
        (pair["variant"], pair["axis"], pair["twin"], pair["target"], pair["reached"], f"{pair['relative_error']:+.3%}")
        for pair in plan["comparisons"]
    ]
    degrees_of_arms = [f"* {arm['arm']}: {'; '.join(arm['degrees'])}" for arm in plan["arms"] if arm["degrees"]]
    measured = [
        f"{pair['variant']} meets on time a twin like {pair['like']}: its tokens follow from speeds that are "
        "measured when it runs, and it is not counted here."
        for pair in plan["measured_when_it_runs"]
    ]
    shared = [line for part, value in plan["shared"].items() for line in _settings(part, value)]
    return "\n\n".join(
        [
            f"{plan['study']}: {total['trials']} trials = {len(plan['arms'])} arms x seeds {seeds}",
            "\n".join([columns(arm_rows, ARM_COLUMNS), *degrees_of_arms]),
            columns(
                work_rows,
                (
                    "arm",
                    "training FLOPs/token",
                    "prefill",
                    "decode",
                    "tokens",
                    "steps",
                    "one seed's training",
                    "and its cost",
                ),
            ),
            "\n".join(
                [columns(pair_rows, ("variant", "equal on", "meets twin", "target", "reached", "error")), *measured]
            ),
            _memory_text(plan),
            _tuning_text(plan),
            "Every arm shares:\n" + "\n".join(shared),
            f"Estimate: {duration(total['estimated_training_hours'] * 3600)} of training for all trials"
            f"{' and proxies' if total['proxies'] else ''}, "
            f"{total['estimated_training_cost']:,.4f} {total['currency']}, on {total['workers']} worker(s).\n"
            f"It assumes cost.assumed_tflops = {total['assumed_tflops']} TFLOP/s sustained by each worker; start-up, "
            "evaluation and cost measurement come on top. Prefill and decode are at the whole context.",
        ]
    )
